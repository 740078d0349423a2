"""Which pictures the model learns, by name.

The best known animals, plants, food, vehicles, weather, places and objects, and the faces that differ most: what
people try first. Left out are near-identical copies (a dog beside the dog face), and what isn't a thing (signs, flags).
"""

SUBJECTS = frozenset(
    " ".join(
        """
    grinning face, face with tears of joy, smiling face with heart-eyes, sleeping face, face with medical
    mask, nauseated face, hot face, cold face, cowboy hat face, partying face, smiling face with sunglasses,
    loudly crying face, face screaming in fear, enraged face, smiling face with horns, skull, pile of poo,
    clown face, ghost, alien, alien monster, robot, broken heart, red heart, brain, tooth, monkey face, dog
    face, wolf, fox, raccoon, cat face, lion, tiger face, horse face, unicorn, zebra, deer, cow face, pig
    face, goat, camel, giraffe, elephant, rhinoceros, hippopotamus, mouse face, hamster, rabbit face,
    chipmunk, hedgehog, bat, bear, polar bear, koala, panda, kangaroo, turkey, chicken, rooster, baby chick,
    bird, penguin, eagle, duck, swan, owl, flamingo, peacock, parrot, frog, crocodile, turtle, lizard,
    snake, dragon, sauropod, t-rex, whale, dolphin, seal, fish, tropical fish, blowfish, shark, octopus,
    spiral shell, coral, jellyfish, crab, lobster, shrimp, snail, butterfly, ant, honeybee, lady beetle,
    spider, bouquet, cherry blossom, rose, hibiscus, sunflower, tulip, seedling, potted plant, evergreen
    tree, deciduous tree, palm tree, cactus, four leaf clover, maple leaf, nest with eggs, mushroom, grapes,
    watermelon, tangerine, lemon, banana, pineapple, red apple, green apple, pear, peach, cherries,
    strawberry, blueberries, tomato, avocado, eggplant, carrot, ear of corn, hot pepper, bell pepper,
    broccoli, onion, bread, croissant, baguette bread, pretzel, pancakes, waffle, cheese wedge, meat on
    bone, hamburger, french fries, pizza, hot dog, sandwich, taco, egg, popcorn, rice ball, steaming bowl,
    spaghetti, sushi, ice cream, doughnut, cookie, birthday cake, cupcake, pie, chocolate bar, candy,
    lollipop, honey pot, glass of milk, hot beverage, teapot, wine glass, cocktail glass, beer mug, cup with
    straw, ice, spoon, kitchen knife, volcano, mount fuji, house, factory, castle, church, tent, ferris
    wheel, locomotive, bus, ambulance, fire engine, police car, taxi, automobile, pickup truck, delivery
    truck, tractor, racing car, motorcycle, motor scooter, bicycle, skateboard, roller skate, vertical
    traffic light, stop sign, anchor, ring buoy, sailboat, speedboat, ship, airplane, parachute, helicopter,
    rocket, flying saucer, hourglass done, watch, alarm clock, full moon, crescent moon, sun, sun with face,
    ringed planet, star, cloud, sun behind cloud, cloud with rain, cloud with lightning, tornado, rainbow,
    umbrella, high voltage, snowflake, snowman, fire, droplet, water wave, jack-o-lantern, christmas tree,
    sparkles, balloon, wrapped gift, trophy, soccer ball, baseball, basketball, american football, tennis,
    bowling, boxing glove, bullseye, kite, pool 8 ball, crystal ball, magic wand, video game, teddy bear,
    artist palette, yarn, necktie, t-shirt, jeans, scarf, socks, dress, handbag, backpack, running shoe,
    high-heeled shoe, crown, top hat, graduation cap, ring, gem stone, megaphone, bell, musical note,
    microphone, headphone, saxophone, trumpet, guitar, violin, drum, mobile phone, telephone, laptop,
    television, camera, magnifying glass tilted left, candle, light bulb, open book, books, money bag,
    envelope, package, pencil, paintbrush, scissors, locked, key, hammer, bomb, shield, wrench, gear,
    magnet, microscope, telescope, bed, toilet
    """.split()  # noqa: SIM905 (a list of hundreds of quoted words reads worse)
    ).split(", ")
)
"""Names of the pictures that every part learns, and that the evaluation looks among for the nearest."""
