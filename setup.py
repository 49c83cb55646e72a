"""Package metadata; the tools' settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="chunkyd",
    version="0.1.0",
    description="Drop a file in a folder; it arrives, whole and verified, whatever happens on the way",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["chunkyd", "chunkyd.*"]),
    package_data={"chunkyd": ["py.typed"]},
    install_requires=[
        "watchdog>=7.1,<8",
        "requests>=2.32",
        "peewee>=4.5",
        "APScheduler>=3.11,<4",
        "python-daemon>=3.1",
        "PyYAML>=6.0",
        "starlette>=1.0",
        "httptools>=0.6.4",
        "uvloop>=0.21",
        "cheroot>=11",
        "msgspec>=0.20",
        "click>=8.2",
        "rich>=14",
        "pathspec>=1.0",
        "crc32c>=2.7",
        "prometheus-client>=0.22",
        "platformdirs>=4.3",
        "humanize>=4.12",
    ],
    extras_require={
        "test": [
            "pytest>=9",
            "hypothesis>=6.150",
            "pytest-randomly>=4",
            "pytest-xdist>=3.8",
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<2.5",
            "import-linter>=2.5",
            "types-PyYAML",
            "types-requests",
            "types-peewee",
        ],
    },
    entry_points={
        "console_scripts": [
            "chunkyd = chunkyd.cli.entry:chunkyd",
            "chunkyctl = chunkyd.cli.entry:chunkyctl",
            "chunky-server = chunkyd.cli.entry:chunky_server",
            "chunky = chunkyd.cli.entry:chunky",
        ],
    },
)
