"""Which pictures the model learns, by name.

The autoencoder, the tokenizer and the text encoder learn all of these: most animals, plants, food, vehicles and
weather, and the best known objects, faces and places. Left out are near-identical copies, and what isn't a thing
(signs, flags).
The UNet learns those it has the time for.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(text.split()).split(", "))


DRAWN = _names(
    """
    grinning face, smiling face with heart-eyes, smiling face with sunglasses, ghost, alien, robot, red
    heart, dog face, fox, cat face, lion, unicorn, cow face, pig face, elephant, rabbit face, panda,
    penguin, owl, frog, turtle, whale, octopus, butterfly, honeybee, lady beetle, rose, sunflower, evergreen
    tree, cactus, mushroom, watermelon, lemon, banana, red apple, strawberry, carrot, hamburger, pizza, ice
    cream, doughnut, birthday cake, fire engine, automobile, bicycle, sailboat, airplane, rocket, sun with
    face, cloud, rainbow, snowman, fire, balloon, wrapped gift, soccer ball, crown, guitar, light bulb, key
    """
)
"""The subjects that the UNet learns to draw, and the evaluation measures."""

KNOWN = _names(
    """
    face with tears of joy, winking face, smiling face with halo, smiling face with hearts, star-struck,
    face blowing a kiss, face with tongue, zany face, money-mouth face, thinking face, zipper-mouth face,
    face with rolling eyes, sleeping face, face with medical mask, nauseated face, hot face, cold face,
    exploding head, cowboy hat face, partying face, nerd face, face with monocle, pleading face, loudly
    crying face, face screaming in fear, enraged face, angry face, smiling face with horns, skull, pile of
    poo, clown face, alien monster, grinning cat, see-no-evil monkey, broken heart, heart on fire, green
    heart, blue heart, foot, ear, brain, tooth, bone, eyes, baby, santa claus, mermaid, monkey face, monkey,
    gorilla, dog, poodle, wolf, raccoon, cat, black cat, tiger face, tiger, horse face, moose, donkey,
    horse, zebra, deer, bison, cow, pig, ram, goat, camel, llama, giraffe, mammoth, rhinoceros,
    hippopotamus, mouse face, mouse, hamster, rabbit, chipmunk, hedgehog, bat, bear, polar bear, koala,
    sloth, otter, skunk, kangaroo, turkey, chicken, rooster, hatching chick, baby chick, bird, dove, eagle,
    duck, swan, dodo, feather, flamingo, peacock, parrot, crocodile, lizard, snake, dragon face, dragon,
    sauropod, t-rex, spouting whale, dolphin, seal, fish, tropical fish, blowfish, shark, spiral shell,
    coral, jellyfish, crab, lobster, shrimp, squid, oyster, snail, bug, ant, beetle, spider, spider web,
    scorpion, mosquito, bouquet, cherry blossom, white flower, lotus, rosette, wilted flower, hibiscus,
    blossom, tulip, hyacinth, seedling, potted plant, deciduous tree, palm tree, shamrock, four leaf clover,
    maple leaf, fallen leaf, leaf fluttering in wind, nest with eggs, grapes, melon, tangerine, pineapple,
    mango, green apple, pear, peach, cherries, blueberries, kiwi fruit, tomato, coconut, avocado, eggplant,
    potato, ear of corn, hot pepper, bell pepper, cucumber, broccoli, garlic, onion, peanuts, bread,
    croissant, baguette bread, pretzel, bagel, pancakes, waffle, cheese wedge, meat on bone, poultry leg,
    cut of meat, bacon, french fries, hot dog, sandwich, taco, burrito, egg, cooking, pot of food, bowl with
    spoon, green salad, popcorn, salt, rice ball, cooked rice, steaming bowl, spaghetti, sushi, fried
    shrimp, dango, dumpling, fortune cookie, soft ice cream, shaved ice, cookie, shortcake, cupcake, pie,
    chocolate bar, candy, lollipop, honey pot, baby bottle, glass of milk, hot beverage, teapot, teacup
    without handle, bottle with popping cork, wine glass, cocktail glass, tropical drink, beer mug, clinking
    glasses, cup with straw, bubble tea, ice, chopsticks, fork and knife with plate, fork and knife, spoon,
    kitchen knife, volcano, mount fuji, brick, rock, wood, house, hospital, school, factory, japanese
    castle, castle, statue of liberty, church, fountain, tent, ferris wheel, locomotive, monorail, tram car,
    bus, ambulance, police car, taxi, sport utility vehicle, pickup truck, delivery truck, tractor, racing
    car, motorcycle, motor scooter, auto rickshaw, kick scooter, skateboard, roller skate, fuel pump, police
    car light, vertical traffic light, stop sign, construction, anchor, ring buoy, canoe, speedboat, ship,
    parachute, helicopter, satellite, flying saucer, hourglass done, watch, alarm clock, full moon, crescent
    moon, sun, ringed planet, star, shooting star, sun behind cloud, sun behind rain cloud, cloud with rain,
    cloud with lightning, tornado, umbrella, umbrella with rain drops, high voltage, snowflake, snowman
    without snow, droplet, water wave, jack-o-lantern, christmas tree, fireworks, sparkles, party popper,
    ribbon, ticket, trophy, baseball, basketball, american football, tennis, bowling, boxing glove, sled,
    bullseye, yo-yo, kite, pool 8 ball, crystal ball, magic wand, video game, joystick, game die, puzzle
    piece, teddy bear, piñata, artist palette, yarn, glasses, necktie, t-shirt, jeans, scarf, gloves, coat,
    socks, dress, kimono, bikini, handbag, backpack, running shoe, hiking boot, high-heeled shoe, top hat,
    graduation cap, lipstick, ring, gem stone, megaphone, bell, musical note, microphone, headphone, radio,
    saxophone, trumpet, violin, drum, mobile phone, telephone, battery, electric plug, laptop, printer,
    keyboard, floppy disk, movie camera, film frames, television, camera, magnifying glass tilted left,
    candle, flashlight, open book, books, scroll, newspaper, coin, money bag, envelope, package, pencil,
    fountain pen, paintbrush, crayon, briefcase, calendar, clipboard, pushpin, paperclip, scissors, locked,
    old key, hammer, axe, dagger, bomb, shield, wrench, screwdriver, gear, magnet, ladder, test tube,
    microscope, telescope, syringe, pill, adhesive bandage, door, bed, chair, toilet, bathtub, broom,
    bucket, soap, toothbrush, sponge, fire extinguisher, shopping cart, cigarette, coffin, moai
    """
)
"""Known to the other parts, and candidates when the evaluation looks for the nearest picture. To have the UNet learn
them too, move them up; a training started from the shipped weights goes on from what is there."""
