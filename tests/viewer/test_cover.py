"""The page as it is served: behind its cover from the first paint on."""

from __future__ import annotations

from pathlib import Path

import viser

from viewer.cover import COVER_PATH, covered

PAGE = (
    "<html><head><title>Viser</title> <link> <script data-p=\"<body>\">run('</body>')"
    '</script></head>\n<body>\n <div id="root"></div>\n</body></html>'
)


def test_the_cover_comes_before_the_script_that_takes_its_time() -> None:
    page = covered(PAGE, "<A> & B")
    assert "<title>&lt;A&gt; &amp; B</title>" in page
    order = ("<title>", "</head>", "<body>", 'id="cover"', 'id="root"', "<script data-p=")
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert page.count("<script data-p=\"<body>\">run('</body>')</script>") == 1
    assert page.rstrip().endswith("</script></body></html>")


def test_the_page_of_this_viser_is_covered() -> None:
    build = Path(viser.__file__).parent / "client" / "build" / "index.html"
    original = build.read_text("utf-8")
    page = covered(original, "t")
    cover = COVER_PATH.read_text("utf-8")
    assert cover in page
    # Nothing else is added or lost but the title.
    rest = page.replace(cover, "", 1).replace("<title>t</title>", "<title>Viser</title>", 1)
    assert sorted(rest) == sorted(original)


def test_a_page_that_is_built_otherwise_is_left_as_it_is() -> None:
    for other in ("<title>Viser</title><body></body>", PAGE.replace("data-p", "src")):
        assert covered(other, "t") == other.replace("Viser", "t")
