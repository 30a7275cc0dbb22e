"""Files that are damaged, cut off, or never were what their name says."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """These bytes with some of them changed, added or lost; all bytes of a file are equally likely to be hit."""
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        change = draw(st.sampled_from(("overwrite", "insert", "cut out", "cut off")))
        if change == "cut off":
            content = content[:place]
        elif change == "cut out":
            content = content[:place] + content[place + draw(st.integers(1, 16)) :]
        else:
            new = draw(st.binary(min_size=1, max_size=8))
            content = content[:place] + new + content[place + len(new) * (change == "overwrite") :]
    return content
