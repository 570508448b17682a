"""The code that the notebooks build and use; the chapters' modules are their exports.

jaxtyping's import hook has beartype compare the arguments of each call of these with
their signatures: types, and the shapes of tensors. JAXTYPING_DISABLE=1 leaves it out.
"""

from pathlib import Path

from jaxtyping import config, install_import_hook


def typed(function):
    """A function whose arguments are checked; an int will do for a float."""
    from beartype import BeartypeConf, beartype

    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


if not config.jaxtyping_disable:
    folders = [path for path in Path(__file__).parent.iterdir() if path.is_dir()]
    chapters = [path for path in folders if not (path / "__init__.py").exists()]
    names = [f"{__name__}.{path.name}" for path in chapters]
    install_import_hook(names, f"{__name__}.typed")
