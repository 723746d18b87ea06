"Packaging: everything comes from settings.ini."
import configparser, shlex
from setuptools import find_packages, setup

settings = configparser.ConfigParser(delimiters=["="])
settings.read("settings.ini", encoding="utf8")
s = settings["DEFAULT"]

setup(
    version=s["version"],
    description=s["description"],
    author=s["author"], author_email=s["author_email"], url=s["git_url"],
    keywords=s["keywords"].split(),
    python_requires=">=" + s["min_python"],
    packages=find_packages(include=[s["lib_path"], s["lib_path"] + ".*"]),
    package_data={"": ["*.sha256", "*.csv", "*.json", "*.yaml"]},
    install_requires=shlex.split(s["requirements"]),
    extras_require={extra: shlex.split(s[f"{extra}_requirements"]) for extra in ("repro", "cluster")},
    entry_points={"console_scripts": s["console_scripts"].split(), "nbdev": [f"{s['lib_name']}={s['lib_path']}._modidx:d"]},
)
