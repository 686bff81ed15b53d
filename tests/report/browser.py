"""Looks at a report in Chromium, without a screen: what is wrong with it, as sentences."""

import contextlib
import json
import pathlib
import shutil
import tempfile

# Found out inside the page; returns sentences. `width` is that of the window.
LOOK = r"""
const wrong = [], width = arguments[0], all = (root, what) => [...root.querySelectorAll(what)];
const said = text => text.replace(/\s+/g, ' ').trim();
const shown = box => box.width > 0 && box.height > 0;

const ids = new Map();
for (const one of all(document, '[id]')) ids.set(one.id, (ids.get(one.id) || 0) + 1);
for (const [id, count] of ids) if (count > 1) wrong.push(`id ${id} stands ${count} times`);
for (const link of all(document, 'a[href^="#"]')) {
  const id = decodeURIComponent(link.getAttribute('href').slice(1));
  if (!ids.has(id)) wrong.push(`link to #${id} leads nowhere`);
}
const linked = new Set(all(document, '#overview a[href^="#"]').map(a => decodeURIComponent(a.hash.slice(1))));
for (const page of all(document, 'section.method')) {
  if (!linked.has(page.id)) wrong.push(`no link of the overview leads to ${page.id}`);
}
for (const svg of all(document, 'svg')) {
  if (!svg.dataset.picture) wrong.push('a picture has no name');
  if (svg.getAttribute('role') !== 'img' || !svg.getAttribute('aria-label')) {
    wrong.push(`${svg.dataset.picture}: no role or no aria-label`);
  }
}
const names = all(document, 'svg[data-picture]').map(svg => svg.dataset.picture);
for (const name of new Set(names.filter((one, at) => names.indexOf(one) !== at))) wrong.push(`${name}: two pictures`);

function look(svg) {
  const name = svg.dataset.picture, say = text => wrong.push(`${name}: ${text}`);
  if (/\b(NaN|nan|inf|Infinity)\b/.test(svg.innerHTML.replace(/base64,[^"]*/g, ''))) say('holds NaN or infinity');
  const whole = svg.getBoundingClientRect();
  if (!shown(whole)) return say('has no size');
  const panels = all(svg, '[data-part^="axes_"]');
  if (!panels.length) say('has no axes');
  panels.forEach((axes, place) => {
    const which = panels.length > 1 ? `panel ${place + 1} ` : '';
    const parts = [...axes.children];
    const frame = parts.find(part => (part.dataset.part || '').startsWith('patch_'));
    const box = frame && frame.getBoundingClientRect();
    const axis = parts.filter(part => (part.dataset.part || '').startsWith('matplotlib.axis_'));
    const scale = axes.querySelector('image') && box && box.height < 16;  // of colours
    const ticks = axis.map(one => all(one, '[data-part*="tick_"] text').filter(t => said(t.textContent)).length);
    const labels = axis.map(one => [...one.children].filter(
        part => (part.dataset.part || '').startsWith('text_') && said(part.textContent)).length);
    if (!axis.length) say(which + 'has no axis');
    axis.forEach((one, at) => {
      const is = which + (at ? 'y axis' : 'x axis');
      if (scale && at) return;
      if (!labels[at]) say(is + ' has no label');
      if (!ticks[at]) say(is + ' has no tick labels');
    });
    const data = all(axes, '[data-part="data"]');
    if (!data.length) return say(which + 'shows no data');
    for (const one of data) {
      const drawn = [one, ...all(one, '*')]
          .filter(part => part.matches('path, use, image, rect') && !part.closest('defs'))
          .map(part => part.getBoundingClientRect());
      if (!drawn.some(b => b.width > 0 || b.height > 0)) say(which + 'has data of no size');
      if (box) {
        for (const b of drawn) {
          const x = (b.left + b.right) / 2, y = (b.top + b.bottom) / 2;
          if (x < box.left - 2 || x > box.right + 2 || y < box.top - 2 || y > box.bottom + 2) {
            say(which + 'has data outside its axes');
            break;
          }
        }
      }
    }
  });
  const texts = all(svg, 'text').map(t => [said(t.textContent), t.getBoundingClientRect()]).filter(([t]) => t);
  texts.forEach(([one, a], at) => {
    if (a.left < whole.left - 3 || a.right > whole.right + 3 || a.top < whole.top - 3 || a.bottom > whole.bottom + 3) {
      say(`"${one}" is cut off`);
    }
    for (const [other, b] of texts.slice(at + 1)) {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      const small = 0.34 * Math.min(a.height, b.height, a.width, b.width);
      if (across > Math.max(1.5, small) && down > Math.max(1.5, small)) say(`"${one}" and "${other}" overlap`);
    }
  });
}

const visit = () => {
  for (const svg of document.querySelectorAll('svg[data-picture]')) {
    if (svg.getClientRects().length && !svg.dataset.looked) {
      svg.dataset.looked = 1;
      look(svg);
    }
  }
  const most = document.documentElement.scrollWidth;
  if (most > width) wrong.push(`at ${width} px the page ${location.hash} is ${most} px wide`);
};
visit();
const done = arguments[arguments.length - 1];
const pages = [...document.querySelectorAll('section.method')].map(page => page.id);
(async () => {
  for (const id of pages) {
    location.hash = id;
    await new Promise(next => setTimeout(next, 0));
    await new Promise(next => requestAnimationFrame(next));
    if (!document.getElementById(id).getClientRects().length) wrong.push(`${id} cannot be reached`);
    visit();
  }
  location.hash = '';
  for (const svg of document.querySelectorAll('svg[data-picture]')) {
    if (!svg.dataset.looked) wrong.push(`${svg.dataset.picture}: is never shown`);
    delete svg.dataset.looked;
  }
  if (!document.querySelector('svg[data-picture]')) wrong.push('the page has no picture');
  done([...new Set(wrong)]);
})();
"""


@contextlib.contextmanager
def chromium():
    """A driver of a fresh, headless Chromium that keeps its hands off the network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.mkdtemp()
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary:
        options.binary_location = binary
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def resize(driver, width, height=900):
    """The page itself so wide; windows have a least width, which this goes around."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requests(driver, page):
    """Addresses that were asked for beside the page itself."""
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = message["params"]["request"]["url"]
            if not address.startswith(("data:", "about:", "chrome:")) and address.split("#")[0] != page:
                yield address


def faults(driver, path, widths=(1180, 390)):
    """What is wrong with the page at `path`."""
    page, wrong = pathlib.Path(path).resolve().as_uri(), []
    for width in widths:
        resize(driver, width)
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(page)
        wrong += driver.execute_async_script(LOOK, width)
        for entry in driver.get_log("browser"):
            if entry["level"] in ("WARNING", "SEVERE"):
                wrong.append(f"console: {entry['level'].lower()}: {entry['message']}")
        wrong += [f"asks the network for {address}" for address in requests(driver, page)]
    return list(dict.fromkeys(wrong))
