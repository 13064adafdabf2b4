"""What the browser tests do again and again."""


def open_tab(page, name):
    """Open a tab, also one that stands under "More tabs" because the row is full."""
    shown = page.get_by_role("tab", name=name, exact=True)
    folded = page.locator(".overflow-dropdown button").get_by_text(name, exact=True)
    shown.or_(folded).first.wait_for(state="attached")
    if shown.count():
        shown.click()
    else:
        page.get_by_label("More tabs").click()
        folded.click()


def panel(page, analysis):
    return page.locator(f"#app-panel-{analysis}")


def query(page):
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")


def selection(page):
    return page.evaluate("window.attnviz.selection")


def wait_query(page, **wanted):
    """Wait until the address says so."""
    wanted = {key: str(value) for key, value in wanted.items()}
    page.wait_for_function(
        "wanted => { const q = new URLSearchParams(location.search);"
        " return Object.entries(wanted).every(([k, v]) => q.get(k) === v); }",
        arg=wanted,
    )


def painted(page):
    """Wait until what the last event asked for is on the screen."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
