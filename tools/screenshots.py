"""Take the pictures of the page in docs/page/: each tab on a desktop and on a phone, drawn by the model that ships.

Needs the extras ui and dev, and Chromium.
"""

import io
import shutil
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.live import serve

FOLDER: Final = Path(__file__).parents[1] / "docs" / "page"
TABS: Final = ("txt2img", "img2img", "inpaint", "extras", "pnginfo", "models", "history", "fleet")
SIZES: Final = {"": (1280, 860, "light"), "-phone": (390, 844, "dark")}
PROMPT: Final = "a pretty dog on a blue background"


def main() -> None:
    """Take them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    executable = shutil.which("chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with serve(ui=True, pod_name="sd-7c9f") as live, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        for suffix, (width, height, scheme) in SIZES.items():
            take(browser, live.url, suffix, width, height, scheme)
        browser.close()


def take(browser: Browser, url: str, suffix: str, width: int, height: int, scheme: str) -> None:
    """Use the page at one size, and take a picture of each tab."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        locale="en-US",
        device_scale_factor=1,
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    page.goto(url)
    page.locator("#txt2img-prompt textarea").fill(PROMPT)
    number(page, "txt2img-seed", 21)
    page.locator("#txt2img-generate").click()
    expect(page.locator("#txt2img-live .sd-what")).to_have_text("Done: 1")
    with page.expect_download() as download, tempfile.TemporaryDirectory() as folder:
        page.locator("#txt2img-gallery .sd-save").click()
        made = Path(folder) / "made.png"
        download.value.save_as(made)
        for tab in TABS:
            page.locator(f"#tab-{tab}-button").click()
            prepare(page, tab, made)
            page.wait_for_timeout(1500)  # a picture of the page at rest
            page.evaluate("scrollTo(0, 0)")
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            shot.save(FOLDER / f"{tab}{suffix}.webp", quality=72, method=6)
    context.close()


def prepare(page: Page, tab: str, made: Path) -> None:
    """Bring a tab into a state that shows what it is for."""
    if tab in ("img2img", "inpaint", "extras", "pnginfo"):
        page.locator(f"#{tab}-picture input[type=file]").set_input_files(made)
        expect(page.locator(f"#{tab}-picture .sd-stage")).to_be_visible()
    if tab == "inpaint":
        page.locator("#inpaint-picture [data-brush]").fill("120")
        canvas = page.locator("#inpaint-picture canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        x, y, width, height = box["x"], box["y"], box["width"], box["height"]
        page.mouse.move(x + width * 0.35, y + height * 0.45)
        page.mouse.down()
        for across, down in ((0.65, 0.45), (0.65, 0.6), (0.35, 0.6), (0.5, 0.5)):
            page.mouse.move(x + width * across, y + height * down, steps=6)
        page.mouse.up()
    if tab in ("img2img", "inpaint"):
        page.locator(f"#{tab}-prompt textarea").fill("a pretty cat on a red background")
        number(page, f"{tab}-seed", 5)
    if tab in ("img2img", "inpaint", "extras"):
        page.locator(f"#{tab}-generate").click()
        expect(page.locator(f"#{tab}-live .sd-what")).to_have_text("Done: 1")
    if tab in ("models", "fleet"):
        expect(page.locator(f"#tab-{tab} table").first).to_be_visible()


def number(page: Page, elem_id: str, value: int) -> None:
    """Type a number."""
    box = page.locator(f"#{elem_id} input").first
    box.fill(str(value))
    box.blur()


if __name__ == "__main__":
    main()
