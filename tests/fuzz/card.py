"""export/card.py: the README.md of somebody else's folder, whose licence goes on into ours."""

from pathlib import Path

import yaml

from attnedit.export.card import front_matter, inherited_licence


def seeds() -> list[bytes]:
    return [
        b"---\nlicense: other\nlicense_name: x\nlicense_link: LICENSE\ntags:\n- attnedit\nbase_model: a/b\n---\n# x\n",
        b"---\na: &a [1, 2]\nb: &b [*a, *a]\nlicense: *b\n<<: {x: 2024-99-99}\n---\n",
        b"---\nlicense: mit\n",
    ]


def one_input(data: bytes, folder: Path) -> None:
    (folder / "README.md").write_bytes(data)
    stated = front_matter(folder)
    (folder / "config.json").write_text("{}")
    assert len(yaml.safe_dump(stated | inherited_licence(stated, folder))) < 100 * len(data) + 1000
