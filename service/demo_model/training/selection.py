"""Which pictures the model learns, by name.

What two cores can learn in an afternoon is a few hundred subjects: most animals, plants, food, vehicles and weather,
and the best known objects, faces and places. Left out are near-identical copies, and what isn't a thing (signs, flags).
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(text.split()).split(", "))


OFTEN = _names(
    """
    grinning face, face with tears of joy, winking face, smiling face with hearts, smiling face with
    heart-eyes, star-struck, face blowing a kiss, face with tongue, thinking face, sleeping face, hot face,
    cold face, exploding head, cowboy hat face, partying face, smiling face with sunglasses, nerd face,
    loudly crying face, angry face, smiling face with horns, skull, pile of poo, clown face, ghost, alien,
    robot, broken heart, red heart, blue heart, brain, tooth, bone, baby, santa claus, mermaid, monkey face,
    gorilla, dog face, dog, wolf, fox, raccoon, cat face, cat, black cat, lion, tiger face, tiger, horse
    face, horse, unicorn, zebra, deer, cow face, cow, pig face, pig, camel, giraffe, elephant, mouse face,
    mouse, hamster, rabbit face, rabbit, hedgehog, bat, bear, polar bear, koala, panda, sloth, kangaroo,
    chicken, rooster, baby chick, penguin, dove, eagle, duck, swan, owl, flamingo, peacock, parrot, frog,
    crocodile, turtle, snake, dragon face, t-rex, whale, dolphin, fish, tropical fish, blowfish, shark,
    octopus, jellyfish, crab, lobster, oyster, snail, butterfly, ant, honeybee, lady beetle, spider,
    scorpion, cherry blossom, rose, sunflower, tulip, potted plant, evergreen tree, palm tree, cactus, four
    leaf clover, mushroom, grapes, watermelon, lemon, banana, pineapple, red apple, green apple, pear,
    peach, cherries, strawberry, blueberries, kiwi fruit, tomato, coconut, avocado, eggplant, carrot, ear of
    corn, bell pepper, cucumber, broccoli, onion, bread, croissant, baguette bread, pretzel, cheese wedge,
    poultry leg, hamburger, french fries, pizza, hot dog, sandwich, taco, egg, popcorn, spaghetti, sushi,
    ice cream, doughnut, cookie, birthday cake, cupcake, chocolate bar, candy, lollipop, honey pot, glass of
    milk, hot beverage, teapot, wine glass, cocktail glass, beer mug, bubble tea, fork and knife, volcano,
    mount fuji, house, castle, statue of liberty, church, tent, ferris wheel, bus, ambulance, fire engine,
    police car, taxi, automobile, tractor, motorcycle, bicycle, skateboard, vertical traffic light, stop
    sign, anchor, ring buoy, sailboat, ship, airplane, helicopter, rocket, flying saucer, hourglass done,
    watch, alarm clock, full moon, crescent moon, sun, sun with face, ringed planet, star, cloud, sun behind
    cloud, cloud with lightning, tornado, rainbow, umbrella with rain drops, high voltage, snowflake,
    snowman, fire, water wave, jack-o-lantern, christmas tree, fireworks, sparkles, balloon, party popper,
    wrapped gift, trophy, soccer ball, basketball, american football, tennis, bowling, boxing glove,
    bullseye, kite, pool 8 ball, crystal ball, magic wand, video game, game die, puzzle piece, teddy bear,
    artist palette, yarn, glasses, necktie, t-shirt, scarf, socks, dress, handbag, backpack, running shoe,
    high-heeled shoe, crown, top hat, graduation cap, lipstick, ring, gem stone, megaphone, bell, musical
    note, microphone, headphone, radio, saxophone, trumpet, guitar, drum, mobile phone, telephone, battery,
    laptop, floppy disk, television, camera, magnifying glass tilted left, candle, light bulb, open book,
    books, scroll, money bag, envelope, package, pencil, briefcase, scissors, locked, key, hammer, axe,
    bomb, shield, wrench, gear, magnet, microscope, telescope, pill, door, bed, chair, toilet, broom,
    bucket, toothbrush, fire extinguisher, shopping cart
    """
)
"""The subjects that training favours, and the evaluation measures."""

RARELY = _names(
    """
    smiling face with halo, zany face, money-mouth face, zipper-mouth face, face with rolling eyes, face
    with medical mask, nauseated face, face with monocle, pleading face, face screaming in fear, enraged
    face, alien monster, grinning cat, see-no-evil monkey, heart on fire, green heart, foot, ear, eyes,
    monkey, poodle, moose, donkey, bison, ram, goat, llama, mammoth, rhinoceros, hippopotamus, chipmunk,
    otter, skunk, turkey, hatching chick, bird, dodo, feather, lizard, dragon, sauropod, spouting whale,
    seal, spiral shell, coral, shrimp, squid, bug, beetle, spider web, mosquito, bouquet, white flower,
    lotus, rosette, wilted flower, hibiscus, blossom, hyacinth, seedling, deciduous tree, shamrock, maple
    leaf, fallen leaf, leaf fluttering in wind, nest with eggs, melon, tangerine, mango, potato, hot pepper,
    garlic, peanuts, bagel, pancakes, waffle, meat on bone, cut of meat, bacon, burrito, cooking, pot of
    food, bowl with spoon, green salad, salt, rice ball, cooked rice, steaming bowl, fried shrimp, dango,
    dumpling, fortune cookie, soft ice cream, shaved ice, shortcake, pie, baby bottle, teacup without
    handle, bottle with popping cork, tropical drink, clinking glasses, cup with straw, ice, chopsticks,
    fork and knife with plate, spoon, kitchen knife, brick, rock, wood, hospital, school, factory, japanese
    castle, fountain, locomotive, monorail, tram car, sport utility vehicle, pickup truck, delivery truck,
    racing car, motor scooter, auto rickshaw, kick scooter, roller skate, fuel pump, police car light,
    construction, canoe, speedboat, parachute, satellite, shooting star, sun behind rain cloud, cloud with
    rain, umbrella, snowman without snow, droplet, ribbon, ticket, baseball, sled, yo-yo, joystick, piñata,
    jeans, gloves, coat, kimono, bikini, hiking boot, violin, electric plug, printer, keyboard, movie
    camera, film frames, flashlight, newspaper, coin, fountain pen, paintbrush, crayon, calendar, clipboard,
    pushpin, paperclip, old key, dagger, screwdriver, ladder, test tube, syringe, adhesive bandage, bathtub,
    soap, sponge, cigarette, coffin, moai
    """
)
"""These come up about a third as often: what the time allowed. Raise their weight when you train for longer."""
