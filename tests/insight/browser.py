"""A real Chromium for tests, without a window and without the network; and what is to be asked of a page in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip

MEASURE = """() => {
  const shown = element => element.getClientRects().length > 0;
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const pale = [], outside = [], overlapping = [], truncated = [];
  const words = 'h1, h2, h3, p, dt, dd, small, figcaption, caption, th, td, li, .badge, summary, blockquote';
  for (const element of document.querySelectorAll(words)) {
    const found = shown(element) ? contrast(getComputedStyle(element).color, background(element)) : 21;
    if (found < 4.5) pale.push([element.textContent.slice(0, 40), found]);
  }
  for (const text of document.querySelectorAll('svg text')) {
    if (!shown(text)) continue;
    const found = contrast(getComputedStyle(text).fill, text.classList.contains('mark-text')
      ? getComputedStyle(text.previousElementSibling).fill : background(text.closest('section')));
    if (found < 4.5) pale.push([text.textContent, found]);
  }
  for (const element of document.querySelectorAll('main *')) {
    if (!shown(element) || element.closest('.scroll, pre')) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > innerWidth + 0.5 || box.left < -0.5)) outside.push(element.outerHTML.slice(0, 120));
  }
  for (const svg of document.querySelectorAll('svg')) {
    if (!shown(svg)) continue;
    const section = svg.closest('section').getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].filter(text => text.textContent.trim() && shown(text)
      && getComputedStyle(text).opacity !== '0').map(text => [text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([name, box], at) => {
      if (box.left < section.left || box.right > section.right) outside.push(name);
      for (const [other, beside] of boxes.slice(at + 1)) {
        const wide = Math.min(box.right, beside.right) - Math.max(box.left, beside.left);
        const high = Math.min(box.bottom, beside.bottom) - Math.max(box.top, beside.top);
        if (wide > 1 && high > 3) overlapping.push([name, other]);
      }
    });
    for (const part of svg.querySelectorAll('.part')) {
      const box = part.querySelector('.box').getBoundingClientRect();
      for (const text of part.querySelectorAll('text')) {
        const found = text.getBoundingClientRect();
        if (found.left < box.left || found.right > box.right + 1) truncated.push(text.textContent);
      }
    }
  }
  const marks = {};
  for (const svg of document.querySelectorAll('svg[data-chart]')) {
    if (shown(svg)) marks[svg.dataset.chart] = [...svg.querySelectorAll('path[aria-label]')].map(
      mark => [mark.getAttribute('aria-label'), getComputedStyle(mark).fill]);
  }
  return {
    pale, outside, overlapping, truncated, marks,
    width: document.documentElement.scrollWidth,
    background: getComputedStyle(document.body).backgroundColor,
    limiting: [...document.querySelectorAll('.flow .limits')].filter(shown).map(part => part.dataset.part),
    parts: [...document.querySelectorAll('.flow .part')].filter(shown).map(part => part.dataset.part),
    images: [...document.images].map(image => image.complete && image.naturalWidth > 0),
    waves: [...document.querySelectorAll('.wave path')].map(path => path.getTotalLength() > 400),
  };
}"""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's. The test is skipped where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium is installed ({', '.join(NAMES)}): apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def look(browser: Any, path: Path, *, width: int, scheme: str = "light", media: str = "screen") -> dict[str, Any]:
    """Opens a file and measures it; ``noise`` holds what the console said, and what was asked of the network."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    noise: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("dialog", lambda dialog: noise.append(dialog.message))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.emulate_media(media=media, color_scheme=scheme)
        page.goto(path.as_uri(), wait_until="load")
        found: dict[str, Any] = page.evaluate(MEASURE)
    finally:
        context.close()
    wanted = [url for url in asked if url != path.as_uri() and not url.startswith("data:")]
    return {**found, "noise": noise + wanted}
