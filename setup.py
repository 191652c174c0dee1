"""The packages of the wheel: those of cffm_jax, and configs/ as cffm_jax.configs. All else is in
pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cffm_jax*"]), "cffm_jax.configs"],
    package_dir={"cffm_jax.configs": "configs"},
)
