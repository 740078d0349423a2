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
    grinning face, face with tears of joy, winking face, smiling face with heart-eyes, thinking face,
    smiling face with sunglasses, skull, ghost, alien, robot, red heart, dog face, fox, cat face, lion,
    tiger face, horse face, unicorn, cow face, pig face, elephant, mouse face, rabbit face, bear, panda,
    penguin, duck, owl, frog, turtle, whale, fish, shark, octopus, snail, butterfly, honeybee, lady beetle,
    cherry blossom, rose, sunflower, tulip, evergreen tree, palm tree, cactus, mushroom, grapes, watermelon,
    tangerine, lemon, banana, pineapple, red apple, green apple, cherries, strawberry, tomato, carrot,
    cheese wedge, hamburger, french fries, pizza, ice cream, doughnut, birthday cake, hot beverage, house,
    castle, bus, fire engine, police car, taxi, automobile, bicycle, sailboat, airplane, rocket, flying
    saucer, alarm clock, crescent moon, sun with face, star, cloud, rainbow, umbrella with rain drops,
    snowflake, snowman, fire, jack-o-lantern, christmas tree, balloon, wrapped gift, trophy, soccer ball,
    teddy bear, crown, top hat, gem stone, guitar, camera, light bulb, open book, pencil, key, hammer
    """
)
"""The subjects that the UNet learns to draw, and the evaluation measures."""

KNOWN = _names(
    """
    smiling face with halo, smiling face with hearts, star-struck, face blowing a kiss, face with tongue,
    zany face, money-mouth face, zipper-mouth face, face with rolling eyes, sleeping face, face with medical
    mask, nauseated face, hot face, cold face, exploding head, cowboy hat face, partying face, nerd face,
    face with monocle, pleading face, loudly crying face, face screaming in fear, enraged face, angry face,
    smiling face with horns, pile of poo, clown face, alien monster, grinning cat, see-no-evil monkey,
    broken heart, heart on fire, green heart, blue heart, foot, ear, brain, tooth, bone, eyes, baby, santa
    claus, mermaid, monkey face, monkey, gorilla, dog, poodle, wolf, raccoon, cat, black cat, tiger, moose,
    donkey, horse, zebra, deer, bison, cow, pig, ram, goat, camel, llama, giraffe, mammoth, rhinoceros,
    hippopotamus, mouse, hamster, rabbit, chipmunk, hedgehog, bat, polar bear, koala, sloth, otter, skunk,
    kangaroo, turkey, chicken, rooster, hatching chick, baby chick, bird, dove, eagle, swan, dodo, feather,
    flamingo, peacock, parrot, crocodile, lizard, snake, dragon face, dragon, sauropod, t-rex, spouting
    whale, dolphin, seal, tropical fish, blowfish, spiral shell, coral, jellyfish, crab, lobster, shrimp,
    squid, oyster, bug, ant, beetle, spider, spider web, scorpion, mosquito, bouquet, white flower, lotus,
    rosette, wilted flower, hibiscus, blossom, hyacinth, seedling, potted plant, deciduous tree, shamrock,
    four leaf clover, maple leaf, fallen leaf, leaf fluttering in wind, nest with eggs, melon, mango, pear,
    peach, blueberries, kiwi fruit, coconut, avocado, eggplant, potato, ear of corn, hot pepper, bell
    pepper, cucumber, broccoli, garlic, onion, peanuts, bread, croissant, baguette bread, pretzel, bagel,
    pancakes, waffle, meat on bone, poultry leg, cut of meat, bacon, hot dog, sandwich, taco, burrito, egg,
    cooking, pot of food, bowl with spoon, green salad, popcorn, salt, rice ball, cooked rice, steaming
    bowl, spaghetti, sushi, fried shrimp, dango, dumpling, fortune cookie, soft ice cream, shaved ice,
    cookie, shortcake, cupcake, pie, chocolate bar, candy, lollipop, honey pot, baby bottle, glass of milk,
    teapot, teacup without handle, bottle with popping cork, wine glass, cocktail glass, tropical drink,
    beer mug, clinking glasses, cup with straw, bubble tea, ice, chopsticks, fork and knife with plate, fork
    and knife, spoon, kitchen knife, volcano, mount fuji, brick, rock, wood, hospital, school, factory,
    japanese castle, statue of liberty, church, fountain, tent, ferris wheel, locomotive, monorail, tram
    car, ambulance, sport utility vehicle, pickup truck, delivery truck, tractor, racing car, motorcycle,
    motor scooter, auto rickshaw, kick scooter, skateboard, roller skate, fuel pump, police car light,
    vertical traffic light, stop sign, construction, anchor, ring buoy, canoe, speedboat, ship, parachute,
    helicopter, satellite, hourglass done, watch, full moon, sun, ringed planet, shooting star, sun behind
    cloud, sun behind rain cloud, cloud with rain, cloud with lightning, tornado, umbrella, high voltage,
    snowman without snow, droplet, water wave, fireworks, sparkles, party popper, ribbon, ticket, baseball,
    basketball, american football, tennis, bowling, boxing glove, sled, bullseye, yo-yo, kite, pool 8 ball,
    crystal ball, magic wand, video game, joystick, game die, puzzle piece, piñata, artist palette, yarn,
    glasses, necktie, t-shirt, jeans, scarf, gloves, coat, socks, dress, kimono, bikini, handbag, backpack,
    running shoe, hiking boot, high-heeled shoe, graduation cap, lipstick, ring, megaphone, bell, musical
    note, microphone, headphone, radio, saxophone, trumpet, violin, drum, mobile phone, telephone, battery,
    electric plug, laptop, printer, keyboard, floppy disk, movie camera, film frames, television, magnifying
    glass tilted left, candle, flashlight, books, scroll, newspaper, coin, money bag, envelope, package,
    fountain pen, paintbrush, crayon, briefcase, calendar, clipboard, pushpin, paperclip, scissors, locked,
    old key, axe, dagger, bomb, shield, wrench, screwdriver, gear, magnet, ladder, test tube, microscope,
    telescope, syringe, pill, adhesive bandage, door, bed, chair, toilet, bathtub, broom, bucket, soap,
    toothbrush, sponge, fire extinguisher, shopping cart, cigarette, coffin, moai
    """
)
"""Known to the other parts, and candidates when the evaluation looks for the nearest picture. To have the UNet learn
them too, move them up; a training started from the shipped weights goes on from what is there."""
