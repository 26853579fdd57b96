"""What a wheel holds; everything else about the project is in pyproject.toml.

`utilities` is installed under the name `msgld`, and `weights` as data of `latent_diffusion`, so that no package of a
general name lands in anybody's environment. The folders are listed here because setuptools' own search, in
pyproject.toml, cannot rename one.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["latent_diffusion", "latent_diffusion.*"]),
        "latent_diffusion.weights",
        "msgld",
        *(f"msgld.{package}" for package in find_packages("utilities")),
    ],
    package_dir={"msgld": "utilities", "latent_diffusion.weights": "weights"},
    package_data={
        "latent_diffusion.weights": ["*/model.safetensors"],  # what `--model NAME` finds
        "msgld.report": ["page.*", "templates/*.j2"],
    },
)
