"""A digest as people compare it: eight groups of hex, or eight words to read aloud.

The groups hold 128 bits, the words 64: enough to see a swap, not to replace the digest.
"""

from __future__ import annotations

_TEXT = """
acid acre actor album alley amber anchor apple apron arrow atlas attic autumn award bacon badge
bamboo banjo barley barrel basil basket beacon beaver bench berry bishop bison blanket blossom
bonnet boot bottle boulder bracket branch bread bridge bronze broom bucket buffalo butter
button cabin cactus camel candle canoe canvas carbon cargo carpet carrot castle cattle cedar
cement chalk chapel cherry chess chimney cider circus clay clock clover cobalt coconut coffee
collar comet copper coral cotton cousin cradle crane crater cricket crystal cushion dagger
dairy daisy desert diamond dolphin donkey dragon drum eagle easel elbow ember engine envelope
fabric falcon feather fennel fiddle finger flame flint flour forest fossil fountain fox frost
galaxy garden garlic ginger glacier goblet gravel guitar hammer harbor harvest hazel helmet
hermit hockey honey hotel hunter igloo indigo island ivory jacket jaguar jasmine jelly jigsaw
jungle kayak kettle kitten ladder lagoon lantern lemon leopard lettuce lilac linen lobster
locket lumber magnet mango maple marble market meadow melon mitten monkey mosaic muffin museum
mustard napkin needle nickel nutmeg oasis ocean olive onion orange orchid otter oyster paddle
palace panda parrot peach pebble pelican pencil pepper piano pigeon pillow pirate planet plum
pocket pony potato prairie puddle pumpkin puzzle quartz quiver rabbit raccoon radish raven
rhubarb ribbon river robin rocket rooster ruby saddle saffron sailor salmon sandal scarf shadow
shovel silver sparrow spider sponge spoon squash stable stirrup sugar summit sunset swallow
syrup tailor temple thistle thunder tiger timber tomato tractor trumpet tulip tunnel turtle
umbrella valley velcro velvet violin wagon walnut walrus willow
"""
WORDS = tuple(_TEXT.split())


def groups(digest: str) -> str:
    """Return the first 128 bits of a digest (hex) in eight groups."""
    return " ".join(digest[start : start + 4] for start in range(0, 32, 4))


def words(digest: str) -> str:
    """Return the first 64 bits of a digest (hex) as eight words, one a byte."""
    return " ".join(WORDS[byte] for byte in bytes.fromhex(digest[:16]))
