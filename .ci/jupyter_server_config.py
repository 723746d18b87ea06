"`make lab` reads this file: a notebook is saved as it is to be stored, so that running and saving it leaves `git status` empty."
import json, runpy
from pathlib import Path

clean = runpy.run_path(str(Path(__file__).with_name("clean")))["clean"]


def tidy(model, path, **_):
    "Cleans a notebook on its way to the disk."
    if model["type"] == "notebook" and model["content"]["nbformat"] == 4: model["content"] = json.loads(clean(model["content"], path))


c.FileContentsManager.pre_save_hook = tidy  # noqa: F821, `c` is Jupyter's
