"""Draw the emoji of five sets at 32 pixels, with what Unicode calls them.

.venv/bin/python book/_tools/assets.py emoji (half a minute; needs npm)

Writes emoji.npz, the pictures, and emoji.json, the concepts: their names, and which of
them are held out.
"""

import io
import random
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import resvg_py
from assets import read_json
from PIL import Image

from fieldguide.data import store

HERE = Path(__file__).parent
SIZE = 32
LABELS = "emojibase-data@17.0.0"
DRAWERS = {  # who drew them: the package
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "noto": "@iconify-json/noto@1.2.9",
    "noto, the first": "@iconify-json/noto-v1@1.2.5",
    "emojitwo": "@iconify-json/emojione@1.2.3",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
}
LEFT_OUT = "component", "flags"  # parts of others; a flag says nothing but its name
HELD_OUT = {"test": 150, "validation": 150}  # concepts, at least
LARGEST = 20  # concepts of a family that may be held out


def fetch(folder: str) -> Path:
    """Install the packages there, as plain files, and say where they lie."""
    command = ["npm", "install", "--prefix", folder, "--ignore-scripts", "--no-audit"]
    command += ["--no-fund", "--silent", LABELS, *DRAWERS.values()]
    subprocess.run(command, check=True)
    return Path(folder) / "node_modules"


def home(modules: Path, package: str) -> Path:
    return modules / package.rpartition("@")[0]


# What there is to draw


def concepts(modules: Path) -> list[dict]:
    """Every emoji but flags and parts, in Unicode's order."""
    folder = home(modules, LABELS)
    names = read_json(folder / "meta" / "groups.json")
    found = []
    for entry in read_json(folder / "en" / "data.json"):
        group = names["groups"].get(str(entry.get("group")))
        if group is None or group in LEFT_OUT:
            continue
        concept = {
            "caption": entry["label"],
            "tags": entry.get("tags", []),
            "character": entry["emoji"],
            "code": bare(entry["hexcode"]),
            "group": group,
            "subgroup": names["subgroups"][str(entry["subgroup"])],
        }
        found.append(concept)
    return found


def bare(code: str) -> str:
    """A sequence of code points, without those that only join and vary."""
    return "-".join(x for x in code.lower().split("-") if x not in ("fe0f", "200d"))


# Which of them are held out

SIDES = "man men woman women person people boy boys girl girls child adult older old "
SIDES += "male female mr mrs mx claus baby prince princess king queen hair blond red "
SIDES += "curly white bald beard orange yellow green blue purple brown black grey pink "
SIDES += "light dark one two three four five six seven eight nine ten eleven twelve "
SIDES += "thirty o clock up down left right face cat with and of the in at a no small "
SIDES += "medium large first last 1st 2nd 3rd facing button keycap"
SIDES = set(SIDES.split())


def family(concept: dict) -> str:
    """Near relatives have one: those that differ in sex, age, colour, number, side."""
    words = re.findall(r"[a-z0-9]+", concept["caption"].lower())
    kept = sorted({word.removesuffix("s") for word in words if word not in SIDES})
    return " ".join(kept) or concept["subgroup"]


def splits(found: list[dict]) -> list[str]:
    """For each concept "train", "validation" or "test": families stay together."""
    sizes = Counter(map(family, found))
    names = [name for name in sizes if sizes[name] <= LARGEST]
    random.Random(0).shuffle(names)
    of = {}
    for split, wanted in HELD_OUT.items():
        while wanted > 0:
            name = names.pop()
            of[name], wanted = split, wanted - sizes[name]
    return [of.get(family(concept), "train") for concept in found]


# Drawing


def icons(modules: Path, package: str, called: set[str]) -> dict[str, str]:
    """{name: SVG document} of one set.

    An alias is another name of an icon, or the icon mirrored. If the icon's own name is
    among `called`, a second name is a mistake: there is no picture of that concept.
    """
    data = read_json(home(modules, package) / "icons.json")
    names = {name: {"parent": name} for name in data["icons"]}
    for name, alias in data.get("aliases", {}).items():
        if "hFlip" in alias or alias["parent"] not in called:
            names[name] = alias
    found = {}
    for name, alias in names.items():
        icon = data["icons"].get(alias["parent"])
        if icon is None:  # an alias of an alias: none that is needed
            continue
        assert {*alias} <= {"parent", "hFlip"}, alias
        left, top = icon.get("left", 0), icon.get("top", 0)
        wide, high = (icon.get(k, data.get(k, 16)) for k in ("width", "height"))
        body = icon["body"]
        if alias.get("hFlip"):
            mirror = f"translate({2 * left + wide} 0) scale(-1 1)"
            body = f'<g transform="{mirror}">{body}</g>'
        found[name] = (
            '<svg xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {wide} {high}">{body}</svg>'
        )
    return found


def names_of(modules: Path) -> dict[str, dict]:
    """{code: the names that the sets give it}; two of the sets have no list."""
    found = {}
    for package in DRAWERS.values():
        path = home(modules, package) / "chars.json"
        for code, name in (read_json(path) if path.exists() else {}).items():
            found.setdefault(bare(code), {})[name] = None  # once, in order
    return found


def draw(svg: str, size: int) -> np.ndarray:
    """A picture on white: uint8 (size, size, 3)."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return np.asarray(ground.convert("RGB").resize((size, size)))


def drawn(modules: Path, found: list[dict], size: int) -> dict[str, np.ndarray]:
    """The pictures, and the drawer and the concept of each."""
    names, rows = names_of(modules), []
    called = {name for known in names.values() for name in known}
    for drawer, package in enumerate(DRAWERS.values()):
        svgs = icons(modules, package, called)
        for number, concept in enumerate(found):
            name = next((n for n in names.get(concept["code"], []) if n in svgs), None)
            if name is not None:
                rows.append((drawer, number, draw(svgs[name], size)))
    drawers, numbers, pictures = zip(*rows, strict=True)
    return {
        "pictures": np.stack(pictures),
        "drawer": np.array(drawers, np.uint8),
        "concept": np.array(numbers, np.int16),
    }


def main(size: int = SIZE, folder: Path = HERE) -> None:
    """With another size, in pixels, only the pictures, into a folder."""
    with tempfile.TemporaryDirectory() as place:
        modules = fetch(place)
        found = concepts(modules)
        store(folder / "emoji.npz", drawn(modules, found, size))
    if size == SIZE:
        for concept, split in zip(found, splits(found), strict=True):
            concept["split"] = split
            del concept["code"]
        store(folder / "emoji.json", {"drawers": list(DRAWERS), "concepts": found})


if __name__ == "__main__":
    main()
