"""Files that are damaged, cut off, or never were what their name says."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from tests.fuzz.models import seeds


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """These bytes with a few of them changed, added or lost, any place being as likely as any other."""
    random = Random(draw(seeds))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2)))):
        place = random.randrange(len(content) + 1)
        change = draw(st.sampled_from(("overwrite", "overwrite", "insert", "cut out", "cut off")))
        new = random.randbytes(random.randint(1, 4))
        if change == "cut off":
            content = content[:place]
        elif change == "insert":
            content = content[:place] + new + content[place:]
        else:
            content = content[:place] + new * (change == "overwrite") + content[place + len(new) :]
    return content
