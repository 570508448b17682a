"""Views that are drawn by a script of their own, which comes with the figure.

Each has two files here: NAME.py says what it takes, NAME.js draws it. The script is a
function of the runtime's marks (`kit` in browser/2-marks.js) that returns what the
entry NAME of `draw` is, with `describe` as a property. It keeps no state but in its
box, and draws what the view says: it is called for each frame of a motion.
"""

from fieldguide.explore.drawings.amounts import amounts
from fieldguide.explore.drawings.arcs import STEPS, arcs
from fieldguide.explore.drawings.marks import marks
from fieldguide.explore.drawings.match import match
from fieldguide.explore.drawings.path import path
from fieldguide.explore.drawings.shapes import shapes
from fieldguide.explore.drawings.strips import projection, strips
from fieldguide.explore.drawings.tower import tower

__all__ = [
    "STEPS",
    "amounts",
    "arcs",
    "marks",
    "match",
    "path",
    "projection",
    "shapes",
    "strips",
    "tower",
]
