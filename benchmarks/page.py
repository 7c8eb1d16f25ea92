"""What the web page costs: `python -m benchmarks.page`.

Chromium opens the page of a real server with an empty cache, and scrolls through a gallery.
"""

import asyncio
import statistics
import tempfile
from pathlib import Path

from PIL import Image

from tests.support.jobs import complete_many
from tests.support.person import at
from tests.support.service import Service

VISITS = 10
JOBS = 10_000
SCROLLS = 60
VISIT = """() => {
    const entries = [...performance.getEntriesByType("navigation"),
        ...performance.getEntriesByType("resource")];
    const sum = list => list.reduce((sum, each) => sum + each.transferSize, 0);
    return {
        painted: performance.getEntriesByName("first-contentful-paint")[0].startTime,
        code: sum(entries.filter(each => !/webp|thumb/.test(each.name))),
        all: sum(entries),
    };
}"""
READY = """() => {
    const box = document.querySelector("#prompt");
    return box && box.isConnected && document.querySelector(".chip") ? performance.now() : false;
}"""
SCROLL = """async scrolls => {
    const frames = [];
    let last = performance.now();
    let goes = true;
    const count = now => {
        frames.push(now - last);
        last = now;
        if (goes) requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    for (let scroll = 0; scroll < scrolls; scroll += 1) {
        scrollBy(0, 800);
        await new Promise(done => setTimeout(done, 100));
    }
    goes = false;
    return { frames, tiles: document.querySelectorAll(".tile").length };
}"""


async def visits(url: str) -> None:
    ready, painted, visit = [], [], {}
    for _ in range(VISITS):
        async with at(url) as person:
            handle = await person.page.wait_for_function(READY)
            ready.append(await handle.json_value())
            visit = await person.page.evaluate(VISIT)
            painted.append(visit["painted"])
    print(f"first visit: painted after {statistics.median(painted):.0f} ms, ", end="")
    print(f"interactive after {statistics.median(ready):.0f} ms (median of {VISITS}); ", end="")
    print(f"{visit['code'] / 1000:.0f} kB, with the pictures to try {visit['all'] / 1000:.0f} kB")


async def gallery(url: str) -> None:
    async with at(url) as person:
        await person.go("gallery")
        await person.page.locator(".tile").first.wait_for()
        scrolled = await person.page.evaluate(SCROLL, SCROLLS)
    frames = sorted(scrolled["frames"])
    slow = sum(frame > 50 for frame in frames) / len(frames)
    print(f"gallery of {JOBS} jobs, {SCROLLS} screens: ", end="")
    print(f"median frame {statistics.median(frames):.0f} ms, ", end="")
    print(f"{100 * slow:.1f} % over 50 ms, longest {frames[-1]:.0f} ms; {scrolled['tiles']} tiles")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        picture = Path(folder) / "noise.jpg"
        Image.effect_noise((1600, 1200), 60).convert("RGB").save(picture, quality=90)
        try:
            complete_many(service.spool, picture, JOBS)
            service.work()
            url = service.serve()
            asyncio.run(visits(url))
            asyncio.run(gallery(url))
        finally:
            service.stop_all()


if __name__ == "__main__":
    main()
