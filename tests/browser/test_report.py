"""`report.html` in a real browser: it draws, it is quiet, and nothing in it breaks out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

# The run that is looked at takes half a minute.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("search")]
MOST_BYTES = 3_000_000
MOST_SECONDS = 1.0
DESK, PHONE = (1200, 900), (360, 740)
# Smallest contrast of text that WCAG 2.2 (1.4.3, AA) takes for readable.
LEAST_CONTRAST = 4.5
SMALLEST_LETTERS = 9  # pixels of CSS
CONTRAST = """
() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const [r, g, b] = rgb(color).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (rgb(color)[3] === 255) return color;
    }
    return "white";
  };
  const worst = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.getClientRects().length || element.closest("script, style")) continue;
    const style = getComputedStyle(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const pair = [light(color), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const name = element.tagName + "." + (element.getAttribute("class") || "");
    worst[name] = Math.min(worst[name] ?? 99, ratio);
  }
  return worst;
}
"""
CLIPPED = """
(figure) => {
  const frame = figure.querySelector("svg").getBoundingClientRect();
  return [...figure.querySelectorAll("svg text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
  }).map((text) => text.textContent);
}
"""
SHAPES = """
(figure) => [...figure.querySelectorAll("rect, circle, polyline, polygon, path")]
  .filter((shape) => { const box = shape.getBBox(); return box.width + box.height > 0; }).length
"""


@contextmanager
def opened(
    browser: Browser, path: Path, size: tuple[int, int] = DESK, **options: Any
) -> Iterator[Page]:
    """A page that was loaded; what it complained of and asked for is an error at the end."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert complaints == []
    assert requests == [path.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, report: Path, scheme: Any) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        contrasts = page.evaluate(CONTRAST)
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert len(contrasts) > 20
    assert {name: ratio for name, ratio in contrasts.items() if ratio < LEAST_CONTRAST} == {}
    brightness = sum(json.loads(ground.replace("rgb(", "[").replace(")", "]")))
    assert (brightness > 600) == (scheme == "light")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_figure_draws_something_and_is_told_in_words(
    browser: Browser, report: Path, size: tuple[int, int]
) -> None:
    with opened(browser, report, size) as page:
        figures = page.query_selector_all("figure")
        names = {figure.get_attribute("id") for figure in figures}
        for figure in figures:
            name = figure.get_attribute("id")
            chart = figure.query_selector("svg[role=img]")
            assert chart is not None, name
            box = chart.bounding_box()
            assert box is not None
            assert box["width"] > 200, name
            assert box["height"] > 30, name
            assert figure.evaluate(SHAPES) > 0, name
            assert figure.evaluate(CLIPPED) == [], name
            for part in ("svg > title", "svg > desc", "figcaption"):
                told = figure.query_selector(part)
                assert told is not None, (name, part)
                assert told.text_content(), (name, part)
    expected = {"rates", "curve", "explained", "layers", "cosines", "activations", "counts",
                "similarity", "probe-loss", "loss-rise", "roc"}  # fmt: skip
    assert expected <= names


def test_blurred_text_is_read_by_clicking_and_by_the_keyboard(
    browser: Browser, report: Path
) -> None:
    with opened(browser, report, reduced_motion="reduce") as page:
        text = page.locator(".answer .blur").first

        def is_blurred() -> bool:
            return "blur" in text.evaluate("one => getComputedStyle(one).filter")

        text.scroll_into_view_if_needed()
        assert is_blurred()
        text.click()
        assert not is_blurred()
        text.click()
        assert is_blurred()
        text.focus()
        assert is_blurred()  # going through the page with the keyboard reveals nothing
        page.keyboard.press("Enter")
        assert not is_blurred()
        page.keyboard.press("Enter")
        assert is_blurred()
        page.locator("#unblur").click()
        assert not is_blurred()
        page.locator("#unblur").click()
        assert is_blurred()


def test_light_and_dark_can_be_chosen(browser: Browser, report: Path) -> None:
    with opened(browser, report, color_scheme="light") as page:
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.evaluate(ground)
        page.locator("#theme").click()
        assert page.evaluate(ground) != light
        page.locator("#theme").click()
        assert page.evaluate(ground) == light


def test_filters_show_and_hide_kinds_of_change(browser: Browser, large_report: Path) -> None:
    with opened(browser, large_report) as page:
        for kind in ("worse", "better", "changed"):
            pairs = page.locator(f".pair[data-kind={kind}]")
            assert pairs.count() > 0
            button = page.locator(f"button[data-kind={kind}]")
            before = pairs.first.is_visible()
            button.click()
            assert pairs.first.is_visible() != before
            button.click()
            assert pairs.first.is_visible() == before


def test_what_a_model_says_stays_text(browser: Browser, large_report: Path) -> None:
    with opened(browser, large_report) as page:
        text = page.text_content("body") or ""
        assert "<script>window.hostile = 1</script>" in text
        assert page.evaluate("typeof window.hostile") == "undefined"
        assert (
            page.locator("iframe, img, a[href^=javascript], meta[http-equiv=refresh]").count() == 0
        )
        assert page.locator("script").count() == 1
        assert "49" not in (page.text_content(".pair:has-text('7 * 7')") or "49")
        assert not set("\x00\x07\x1b\u202e\u2066\u2028") & set(text)
        for link in page.query_selector_all("a"):
            assert (link.get_attribute("href") or "").startswith("#")


def test_charts_can_be_read_on_a_phone(browser: Browser, report: Path) -> None:
    with opened(browser, report, PHONE) as page:
        sizes = page.evaluate(
            """() => [...document.querySelectorAll("svg text")].map((text) =>
              parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"""
        )
    assert min(sizes) >= SMALLEST_LETTERS


@pytest.mark.parametrize("name", ["report", "large_report"])
def test_a_phone_scrolls_down_only(
    browser: Browser, name: str, request: pytest.FixtureRequest
) -> None:
    with opened(browser, request.getfixturevalue(name), PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        page.locator("summary").last.click()  # hashes and recipes are long lines
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_it_is_whole_without_scripts(browser: Browser, report: Path) -> None:
    with opened(browser, report, java_script_enabled=False) as page:
        assert page.locator("h1").is_visible()
        assert page.locator(".pair").last.text_content()
        assert page.locator(".pair").first.is_visible()
        assert not page.locator("button").first.is_visible()
        assert all(figure.is_visible() for figure in page.locator("figure").all())


def test_paper_is_white_and_shows_the_figures(browser: Browser, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        page.emulate_media(media="print")
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        assert not page.locator("button").first.is_visible()
        contrasts = page.evaluate(CONTRAST)
        assert {name: ratio for name, ratio in contrasts.items() if ratio < LEAST_CONTRAST} == {}
        assert page.pdf().startswith(b"%PDF-")


def test_the_page_may_not_reach_the_network(browser: Browser, report: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(report.as_uri())
    refused = page.evaluate(
        """() => new Promise((told) => {
          document.addEventListener("securitypolicyviolation", (event) => told(event.blockedURI));
          fetch("https://example.org/").then(() => told("reached"), () => {});
        })"""
    )
    context.close()
    assert refused.startswith("https://example.org")


def test_a_run_of_1200_prompts_is_small_and_loads_at_once(
    browser: Browser, large_report: Path
) -> None:
    assert large_report.stat().st_size < MOST_BYTES
    seconds = []
    for _ in range(3):
        with opened(browser, large_report) as page:
            page.wait_for_load_state("load")
            seconds.append(
                page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
            )
            assert page.locator(".pair").count() >= 100
    assert sorted(seconds)[1] < MOST_SECONDS
