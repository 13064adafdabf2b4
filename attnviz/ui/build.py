"""The page: left column, token strip, one tab per group of analyses, and what happens when something is pressed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from attnviz.agent import is_public
from attnviz.bench.view import view as benchmark_view
from attnviz.errors import BadInput, UnknownName
from attnviz.hooks import Analysis, ModelEntry
from attnviz.registry import Registry
from attnviz.session import LoadedModel, Session, TracedRun
from attnviz.store import RunStore, StoredRun
from attnviz.ui import benchmark_tab, faithful, going_on, measure_box, model_tab, runs_tab
from attnviz.ui import sidebar as left
from attnviz.ui import wish as wishes
from attnviz.ui.agent_box import usual_tools
from attnviz.ui.background import Job, error_notice, noticed
from attnviz.ui.beside import NOTHING, Against
from attnviz.ui.components.pieces import examples_value, live_answer, status_line, token_strip
from attnviz.ui.components.script_view import page_scripts
from attnviz.ui.controls import changes
from attnviz.ui.describe import ended_by, heads_of, run_value
from attnviz.ui.model_tab import ModelTab, build_model_tab
from attnviz.ui.panels import Panel, Updates, build_panel, show, shows
from attnviz.ui.place import Place, address_selection, parse_place
from attnviz.ui.plugins_tab import build_plugins_tab
from attnviz.ui.publish import publish
from attnviz.ui.runs_tab import Shelf, runs_list

BUTTONS = 8
"""Analyses of a tab that are chosen by buttons."""
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
PATIENCE = 30.0
"""Seconds that Cancel waits for the model to end the step it is in."""


@dataclass
class Group:
    """One tab. `menu` picks among its analyses; None where there is only one."""

    title: str
    tab: gr.Tab
    panels: dict[str, Panel]
    menu: gr.Radio | gr.Dropdown | None = None

    def open_panel(self, values: Mapping[Any, Any]) -> Panel:
        """The panel the menu points at."""
        chosen = values.get(self.menu) if self.menu is not None else None
        return self.panels.get(chosen or "", next(iter(self.panels.values())))


@dataclass
class Page:
    """Everything on the page that events read or change."""

    session: Session
    finished: wishes.Finished
    run: gr.State
    place: gr.JSON
    side: left.Sidebar
    live: gr.HTML
    strip: gr.HTML
    tabs: gr.Tabs
    groups: dict[str, Group]
    about: ModelTab
    benchmark: benchmark_tab.BenchmarkTab
    shelf: Shelf
    runs: gr.HTML
    asked: wishes.LastAsked = field(default_factory=wishes.LastAsked)
    made: going_on.Made = field(default_factory=going_on.Made)
    loaded: set[str] = field(default_factory=set)  # models somebody here loaded on purpose
    used: set[str] = field(default_factory=set)  # tools somebody here let an agent use on purpose

    @property
    def panels(self) -> list[Panel]:
        return [panel for group in self.groups.values() for panel in group.panels.values()]


def build_app(
    session: Session, finished: wishes.Finished | None = None, *, private_runs: bool | None = None
) -> gr.Blocks:
    """The app over one session. Nothing is loaded or computed here.

    Args:
        finished: runs that are ready.
        private_runs: each browser sees only the runs it saved itself; None = on a public Space.
    """
    shelf = Shelf(session, RunStore(), is_public() if private_runs is None else private_runs)
    with gr.Blocks(title="attnviz", analytics_enabled=False, fill_width=True) as app:
        page = _lay_out(session, finished or wishes.Finished(session), shelf)
        _wire(app, page)
        publish(session)
    app.queue(default_concurrency_limit=8)
    return app


# --------------------------------------------------------------------------------------------- layout


def _lay_out(session: Session, finished: wishes.Finished, shelf: Shelf) -> Page:
    run, place = gr.State(""), gr.JSON(visible=False)
    with gr.Row(elem_id="app-page"):
        with gr.Column(elem_id="app-side", scale=0, min_width=300):
            side = left.build_sidebar(session)
        with gr.Column(elem_id="app-main", scale=1, min_width=320):
            live = live_answer()
            strip = token_strip()
            with gr.Tabs(elem_id="app-tabs") as tabs:
                groups = {title: _group(session, title, found) for title, found in session.registry.groups().items()}
                about = build_model_tab()
                with gr.Tab(runs_tab.TITLE, id=runs_tab.ID) as tab:
                    runs = runs_list(shelf)
                tab.select(None, None, None, js=f"() => window.attnviz.place({json.dumps(runs_tab.TITLE)})", **PRIVATE)
                benchmark = benchmark_tab.build_benchmark_tab()
                build_plugins_tab(session)
            status_line()
    return Page(
        session, finished, run, place, side, live, strip, tabs, groups, about, benchmark, shelf=shelf, runs=runs
    )


def _group(session: Session, title: str, analyses: Sequence[Analysis]) -> Group:
    alone = len(analyses) == 1
    with gr.Tab(title, id=title) as tab:
        menu = None
        if not alone:
            menu = _menu([(a.title, a.name) for a in analyses])
        panels = {a.name: build_panel(session, a, alone, visible=i == 0) for i, a in enumerate(analyses)}
    return Group(title, tab, panels, menu)


def _menu(names: list[tuple[str, str]]) -> gr.Radio | gr.Dropdown:
    """Choice among analyses: buttons, or a list that unfolds where they would fill several lines."""
    common: dict[str, Any] = {"value": names[0][1], "elem_classes": "app-menu"}
    if len(names) > BUTTONS:
        return gr.Dropdown(names, label="Analysis", show_label=False, container=False, **common)
    return gr.Radio(names, show_label=False, container=False, **common)


# --------------------------------------------------------------------------------------------- events


def _wire(app: gr.Blocks, page: Page) -> None:
    side, everything = page.side, _outputs(page)
    controls = _inputs(page)
    first = app.load(
        _with_place(page, controls, lambda place, values, asker: open_first(page, place, values, asker)),
        [page.run, page.place, *controls],
        everything,
        js=_gather("window.attnviz.firstPlace()"),
        **PRIVATE,
    )
    started = gr.on(
        [side.run.click, side.prompt.submit],
        _with_place(page, [*side.asked, *controls], lambda place, values, asker: start(page, place, values, asker)),
        [page.run, page.place, *side.asked, *controls],
        everything,
        js=_gather("window.attnviz.place()"),
        **PRIVATE,
    )
    picked = side.examples.pick(_example, None, [side.prompt, side.category], **PRIVATE).then(
        _with_place(page, [*side.asked, *controls], lambda place, values, asker: start(page, place, values, asker)),
        [page.run, page.place, *side.asked, *controls],
        everything,
        js=_gather("window.attnviz.place()"),
        **PRIVATE,
    )
    continued = side.go_on.click(
        _with_place(page, [*side.asked, *controls], lambda place, values, asker: go_on(page, place, values, asker)),
        [page.run, page.place, *side.asked, *controls],
        everything,
        js=_gather("window.attnviz.place()"),
        **PRIVATE,
    )
    continued.then(None, side.prompt, side.prompt, js="(typed) => window.attnviz.leftToSay(typed)", **PRIVATE)
    looked = side.look.click(
        _with_place(page, [*side.asked, *controls], lambda place, values, asker: look(page, asker.run, values)),
        [page.run, page.place, *side.asked, *controls],
        everything,
        js=_gather("window.attnviz.place()"),
        **PRIVATE,
    )
    opened = page.runs.open(
        _with_place(page, controls, lambda place, values, asker: open_saved(page, place, values, asker)),
        [page.run, page.place, *controls],
        everything,
        js=_gather("({...window.attnviz.place(), url: {run: window.attnviz.opening}})"),
        **PRIVATE,
    )

    def save(run: str, category: str, asker: Any) -> Iterator[Updates]:
        yield from save_run(page, run, category, asker)

    side.save.click(
        save,
        [page.run, side.shelf, page.place],
        side.notice,
        js="(run, category) => [run, category, {key: window.attnviz.browserKey()}]",
        **PRIVATE,
    )
    of_tabs = [event for group in page.groups.values() for event in _wire_group(page, group)]
    under_way = [first, started, picked, continued, looked, opened, *_wire_model_tab(page), *of_tabs]
    # First the work ends, then its traces go: an answer on its way would bring them back.
    ending = side.cancel.click(None, None, None, cancels=under_way, **PRIVATE).then(
        _with_place(page, controls, lambda place, values, asker: cancel(page, place, values, asker)),
        [page.run, page.place, *controls],
        everything,
        js=_gather("window.attnviz.place()"),
        **PRIVATE,
    )
    side.clear.click(None, None, None, cancels=[*under_way, ending], **PRIVATE).then(
        lambda: _cleared(page), None, everything, **PRIVATE
    )
    side.model.input(
        lambda name: _model_chosen(page.session, name),
        side.model,
        [side.own, side.examples, side.agent.tools],
        **PRIVATE,
    )


def _wire_model_tab(page: Page) -> list[Any]:
    """The Model tab: it came into sight, other lengths are to be estimated."""
    about = page.about
    asked: dict[str, Any] = {
        "inputs": [about.model, about.counts],
        "outputs": about.outputs,
        "trigger_mode": "always_last",
        **PRIVATE,
    }

    def wait(kept: Any, counts: str) -> Iterator[Updates]:
        yield from model_tab.estimate_when_loaded(about, page.session, kept, counts)

    def ask(kept: Any, counts: str) -> Iterator[Updates]:
        yield from model_tab.estimate(about, page.session, kept, counts)

    say = f"(...given) => {{ window.attnviz.place({json.dumps(model_tab.TITLE)}); return given; }}"
    opened = about.tab.select(wait, js=say, **asked)
    estimated = gr.on([about.ask.click, about.counts.submit], ask, **asked)
    return [opened, estimated]


def _wire_group(page: Page, group: Group) -> list[Any]:
    """A tab: an analysis came into sight, a control changed, the selection moved.

    A tab does not listen to its own `select`, which also fires for the first tab while the page loads: the bar of a
    panel tells when it comes into sight.
    """
    panels = list(group.panels.values())
    if group.menu is not None:
        names = json.dumps(list(group.panels))
        shown = f'(name) => {names}.map((n) => ({{"__type__": "update", "visible": n === name}}))'
        group.menu.change(None, group.menu, [p.frame for p in panels], js=shown, **PRIVATE)
    return [event for panel in panels for event in _wire_panel(page, group, panel)]


def _wire_panel(page: Page, group: Group, panel: Panel) -> list[Any]:
    own = panel.settled
    others = [c for p in group.panels.values() if panel.comparison and p is not panel for c in p.controls.values()]
    controls = [*own, *others]

    def refresh(place: Place, values: Mapping[Any, Any], asker: Asker) -> Iterator[Updates]:
        against = _against(group, panel, values)
        yield from show(page.session, panel, asker.run, place, _values(panel, values), against)

    handler = _with_place(page, controls, refresh)
    common: dict[str, Any] = {
        "inputs": [page.run, page.place, *controls],
        "outputs": panel.outputs,
        "js": _gather(f"window.attnviz.place({json.dumps(group.title)})"),
        "trigger_mode": "always_last",
        **PRIVATE,
    }
    made = [panel.bar.recompute(handler, **common)]
    moved = [event for component in own for event in changes(component)]
    if moved:
        made.append(gr.on(moved, handler, **common))
    if panel.judged is not None:
        made.append(_wire_judge(page, group, panel, panel.judged))
    return made


def _wire_judge(page: Page, group: Group, panel: Panel, where: gr.HTML) -> Any:
    """The faithfulness of an attribution was asked for."""
    controls = list(panel.controls.values())

    def answer(place: Place, values: Mapping[Any, Any], asker: Asker) -> Iterator[Updates]:
        yield from faithful.judge(page.session, where, panel.analysis, asker.run, place, _values(panel, values))

    return where.judge(
        _with_place(page, controls, answer),
        inputs=[page.run, page.place, *controls],
        outputs=[where],
        js=_gather(f"window.attnviz.place({json.dumps(group.title)})"),
        **PRIVATE,
    )


@dataclass(frozen=True)
class Asker:
    """The browser that asks: its name in this visit, and the id of the run it shows."""

    browser: str
    run: str


def _with_place(
    page: Page, components: list[Any], answer: Callable[[Place, Mapping[Any, Any], Asker], Iterator[Updates]]
) -> Callable[..., Iterator[Updates]]:
    """Gives `answer` the place, the values by component, and who asks.

    Every answer repeats what the earlier ones said: the browser may take only the last of several that come at once.
    """

    def handler(request: gr.Request, run: str, place: Any, *values: Any) -> Iterator[Updates]:
        said: Updates = {}
        asker = Asker(str(request.session_hash), run)
        for updates in answer(parse_place(place), dict(zip(components, values, strict=True)), asker):
            said |= updates
            if said:  # gradio takes an empty answer for one that lacks its outputs
                yield dict(said)

    return handler


def _gather(place: str) -> str:
    """JavaScript that puts the place of the browser into the inputs."""
    return f"(run, place, ...values) => [run, {place}, ...values]"


def _inputs(page: Page) -> list[Any]:
    menus = [group.menu for group in page.groups.values() if group.menu is not None]
    return [*menus, page.about.counts, *page.side.measured.asked, *(c for panel in page.panels for c in panel.settled)]


def _outputs(page: Page) -> list[Any]:
    menus = [group.menu for group in page.groups.values() if group.menu is not None]
    panels = [component for panel in page.panels for component in (panel.frame, *panel.outputs)]
    side = page.side
    left_column = [side.notice, *side.asked, side.examples, *side.measured.outputs]
    return [
        page.run,
        page.live,
        page.strip,
        page.tabs,
        *left_column,
        *page.about.outputs,
        *page.benchmark.outputs,
        *menus,
        *panels,
        *measure_box.choosers(page.panels),
    ]


def _against(group: Group, panel: Panel, values: Mapping[Any, Any]) -> Against:
    """What a panel is compared with, as the page has it."""
    choice = values.get(panel.comparison.choice) if panel.comparison else ""
    given = {name: _values(other, values) for name, other in group.panels.items() if other is not panel}
    return Against(choice, given) if choice else NOTHING


def _values(panel: Panel, values: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: values[component] for name, component in panel.controls.items() if component in values}


# --------------------------------------------------------------------------------------------- what they do


def open_first(page: Page, place: Place, values: Mapping[Any, Any], asker: Asker) -> Iterator[Updates]:
    """The first screen: a finished run of what the address asks for, else of the default model."""
    side, registry = page.side, page.session.registry
    try:
        if "run" in place.url:
            yield from open_saved(page, place, values, asker)
            page.finished.shown.set()
            return
        if not registry.models and "model" not in place.url:
            yield {side.notice: _info("No model is on the menu. Choose one and press Run.")}
            return
        wish = wishes.wish_of_address(place.url, page.session)
        if place.url:
            yield _column(page, wish)
        if not wishes.may_load(wish, page.loaded):
            text = f"The address asks for the model {wish.source!r}, which is not on the menu. Press Run to load it."
            yield {side.notice: _info(text)}
            return
        if wish.agent is not None and not wishes.may_act(wish.agent, registry, page.used):
            text = f"The address asks for an agent with {', '.join(wish.agent.tools)}. Press Run to let it act."
            yield {side.notice: _info(text)}
            return
        place, tabs = _opened(page, place)
        if tabs:
            yield tabs
        kept = None
        for updates in _run(page, wish, page.finished.make, place, values, asker):
            kept = updates.get(page.about.model, kept)
            yield updates
        page.finished.shown.set()
        if place.url.get("tab") == model_tab.TITLE:
            yield from model_tab.estimate_when_loaded(page.about, page.session, kept, values[page.about.counts])
        if place.url.get("tab") == benchmark_tab.TITLE:
            yield from benchmark_tab.opened(page.benchmark, "")
    except Exception as error:  # the boundary of the page
        yield {side.notice: error_notice(error)}


def open_saved(page: Page, place: Place, values: Mapping[Any, Any], asker: Asker) -> Iterator[Updates]:
    """A saved run was chosen, in the list or by an address: show it as it was. On failure what was there stays."""
    try:
        run = page.session.reopen(page.shelf.store.read(place.url["run"]))
        wish = wishes.wish_of_saved(run)
        yield _column(page, wish)
        first = next(iter(page.groups), "")
        place, tabs = _opened(page, Place(url={"tab": first, **place.url}))
        yield tabs

        def make(wish: wishes.Wish, job: Job) -> TracedRun:
            job.report(0.3, "Opening the saved run")
            return run

        yield from _run(page, wish, make, place, values, asker)
    except Exception as error:  # the boundary of the page
        yield {page.side.notice: error_notice(error)}


def save_run(page: Page, run: str, category: str, asker: Mapping[str, Any]) -> Iterator[Updates]:
    """ "Save this run" was pressed."""
    side = page.side
    try:
        if not run:
            raise BadInput("There is no run to save. Press Run first.")

        def work(job: Job) -> StoredRun:
            job.report(0.3, "Saving the run")
            return page.shelf.keep(page.session.run(run), category, asker)

        kept = yield from noticed(side.notice, work)
        yield {
            side.notice: _info(
                f"Saved as “{kept.title}” ({kept.category}, {kept.bytes / 1000:.0f} KB). See the tab Runs."
            )
        }
    except Exception as error:  # the boundary of the page
        yield {side.notice: error_notice(error)}


def start(page: Page, place: Place, values: Mapping[Any, Any], asker: Asker) -> Iterator[Updates]:
    """Run was pressed."""
    try:
        wish = wishes.asked(*(values[component] for component in page.side.asked))
        wish = measure_box.with_measurements(page.session, page.side.measured, wish, values)
    except Exception as error:  # the boundary of the page
        yield {page.side.notice: error_notice(error)}
        return
    yield from _run(page, wish, lambda wish, job: wishes.make_run(page.session, wish, job), place, values, asker)
    page.loaded.add(wish.source)
    page.used.update(wish.agent.tools if wish.agent else ())


def go_on(page: Page, place: Place, values: Mapping[Any, Any], asker: Asker) -> Iterator[Updates]:
    """Continue was pressed: the prompt is the next turn of the conversation in the strip."""
    try:
        wish = wishes.asked(*(values[component] for component in page.side.asked))
        whole = going_on.next_wish(page.session, asker.run, wish, page.made.find(asker.run))
    except Exception as error:  # the boundary of the page
        yield {page.side.notice: error_notice(error)}
        return

    def make(wish: wishes.Wish, job: Job) -> TracedRun:
        return going_on.go_on(page.session, asker.run, wish, job)

    yield from _run(page, whole, make, place, values, asker)


def look(page: Page, run: str, values: Mapping[Any, Any]) -> Iterator[Updates]:
    """ "Look at the model" was pressed: load it and show what is known of it. On failure what was there stays."""
    side = page.side
    try:
        # what is typed for the answer does not matter here
        unasked = {side.seed: "", side.stop: "", side.agent.acts: False}
        wish = wishes.asked(*({**values, **unasked}[component] for component in side.asked))

        def work(job: Job) -> LoadedModel:
            job.report(0.1, f"Loading {wish.source or 'the model'}")
            return wishes.load(page.session, wish)

        model = yield from noticed(side.notice, work)
        about = model_tab.shown(page.about, model, values[page.about.counts], _above(page, run, model))
        page.loaded.add(wish.source)
        yield {side.notice: None, page.tabs: gr.Tabs(selected=model_tab.ID), **about}
    except Exception as error:  # the boundary of the page
        yield {side.notice: error_notice(error)}


def _above(page: Page, run: str, model: LoadedModel) -> str | None:
    """Name of the model of the run in the strip, if that is another one."""
    try:
        name = page.session.run(run).model.name if run else model.name
    except BadInput:  # the run is no longer in memory
        return None
    return name if name != model.name else None


def _opened(page: Page, place: Place) -> tuple[Place, Updates]:
    """The tab and the analysis an address names."""
    title, name = place.url.get("tab", ""), place.url.get("analysis", "")
    own = (model_tab, runs_tab, benchmark_tab)
    fixed = {**{tab.TITLE: tab.ID for tab in own}, "Plugins": "plugins"}
    if not title or title in fixed:
        return Place(url=place.url), {page.tabs: gr.Tabs(selected=fixed[title])} if title else {}
    if title not in page.groups:
        raise UnknownName("tab of the address", title[:80], [*page.groups, *fixed])
    group = page.groups[title]
    updates: Updates = {page.tabs: gr.Tabs(selected=title)}
    views: dict[str, str] = {}
    if name:
        if name not in group.panels:
            raise UnknownName("analysis of the address", name[:80], group.panels)
        if group.menu is not None:
            updates[group.menu] = name
            updates |= {p.frame: gr.Column(visible=n == name) for n, p in group.panels.items()}
    return Place(tab=title, url=place.url, views=views), updates


def _run(
    page: Page,
    wish: wishes.Wish,
    make: Callable[[wishes.Wish, Job], TracedRun],
    place: Place,
    values: Mapping[Any, Any],
    asker: Asker,
) -> Iterator[Updates]:
    """Make the run, show it in the strip, and bring the open tab up to date. On failure what was there stays."""
    side, job = page.side, Job()
    page.asked.keep(asker.browser, wish, job)
    try:
        run = yield from _told(page, job, lambda job: make(wish, job))
        page.made.keep(run, wish)
        if wish.measured is not None and not measure_box.shows_measurements(page.session, asker.run):
            place, tabs = _to_sensors(page, place)
            yield tabs
        yield measure_box.told(side.measured, page.panels, wish, run)
        plain = going_on.about_plain(run, wish)
        place = yield from _show_run(page, wish, run, place, values, _info(plain) if plain else None)
        if seen := _in_sight(page, place, values):
            group, panel = seen
            against = _against(group, panel, values)
            yield from show(page.session, panel, run.id, place, _values(panel, values), against)
    except Exception as error:  # the boundary of the page
        yield {side.notice: error_notice(error), page.live: None}


def _to_sensors(page: Page, place: Place) -> tuple[Place, Updates]:
    """The first run of measurements opens the tab that is made for them, unless the address says where to go."""
    if "tab" in place.url or measure_box.TAB not in page.groups:
        return place, {}
    return dataclasses.replace(place, tab=measure_box.TAB), {page.tabs: gr.Tabs(selected=measure_box.TAB)}


def _told(page: Page, job: Job, make: Callable[[Job], TracedRun]) -> Generator[Updates, None, TracedRun]:
    """As `noticed`, with the answer in the making beside each notice."""
    steps = noticed(page.side.notice, make, job)
    while True:
        try:
            said = next(steps)
        except StopIteration as end:
            run: TracedRun = end.value
            return run
        live = job.live
        yield {**said, page.live: None if live is None else live()}


def _show_run(
    page: Page,
    wish: wishes.Wish,
    run: TracedRun,
    place: Place,
    values: Mapping[Any, Any],
    notice: dict[str, Any] | None = None,
    *,
    ask: bool = False,
) -> Generator[Updates, None, Place]:
    """The run in the strip; returns the place with a selection that fits it.

    The open tab keeps its previous picture until the new one is there. `ask`: the page is to ask for that by itself.
    """
    heads = heads_of(run.model.card)
    selection: Mapping[str, int] = {}
    try:
        selection = address_selection(place.url, heads, len(run.tokens))
        if page.session.settings.layer is not None and place.selection.get("layer") is None:
            selection = {"layer": page.session.first_layer(run.model), **selection}
    except Exception as error:  # the run is there all the same
        notice = error_notice(error)
    said = wish.then[-1] if wish.then else None
    value = {**run_value(run, wishes.address_of(wish, run), selection), "ask": ask, "said": said}
    others = {k: v for panel in page.panels for k, v in panel.empty().items()}
    if seen := _in_sight(page, place, values):
        others = {k: v for k, v in others.items() if k not in seen[1].outputs}
    about = model_tab.shown(page.about, run.model, values[page.about.counts])
    shown = {page.run: run.id, page.live: None, page.strip: value, page.side.notice: notice}
    yield {**shown, **about, **others}
    return _settled(place, selection, heads, len(run.tokens))


def _in_sight(page: Page, place: Place, values: Mapping[Any, Any]) -> tuple[Group, Panel] | None:
    """The open tab and its panel; the first one where the open tab shows no analysis."""
    group = page.groups.get(place.tab) or next(iter(page.groups.values()), None)
    return (group, group.open_panel(_menu_of(group, place, values))) if group else None


def _menu_of(group: Group, place: Place, values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The values, with the menu as the address has it."""
    named = place.url.get("analysis")
    return {**values, group.menu: named} if named in group.panels and group.menu is not None else values


def _settled(place: Place, selection: Mapping[str, int], heads: list[int], tokens: int) -> Place:
    """The place with a selection that fits the new run: the page settles on the same one."""
    layer = _fits({**place.selection, **selection}.get("layer"), len(heads))
    if layer is None:
        layer = next((i for i, count in enumerate(heads) if count), 0)
    count = (heads[layer] if layer < len(heads) else 0) or max(heads, default=0)
    head = _fits({**place.selection, **selection}.get("head"), count)
    token = selection.get("token", tokens - 1)
    settled = {"layer": layer, "head": 0 if head is None else head, "token": token}
    return Place(place.tab, settled, place.words, place.views, {}, place.url)


def _fits(value: int | None, count: int) -> int | None:
    return value if value is not None and value < count else None


def _column(page: Page, wish: wishes.Wish) -> Updates:
    """The left column as an address has it."""
    side, registry = page.side, page.session.registry
    entry = registry.models.get(wish.model)
    return {
        side.model: wish.model,
        side.own: gr.Textbox(value=wish.own, visible=wish.model == wishes.OWN),
        side.prompt: "" if wish.then else wish.prompt,
        side.category: wish.category,
        side.format: wish.format,
        side.backend: wish.backend,
        side.device: wish.device,
        side.answer: wish.answer,
        side.length: wish.length,
        side.temperature: wish.temperature,
        side.seed: "" if wish.seed is None else str(wish.seed),
        side.stop: wishes.write_stops(wish.stop),
        side.top_p: wish.top_p,
        side.repetition_penalty: wish.repetition_penalty,
        side.examples: examples_value(entry.examples if entry else ()),
        **measure_box.as_asked(side.measured, entry, wish),
        **_agent_box(page, wish, entry),
    }


def _agent_box(page: Page, wish: wishes.Wish, entry: ModelEntry | None) -> Updates:
    """The part of the left column for an agent as an address has it."""
    box = page.side.agent
    if wish.agent is None:
        return {box.acts: False, box.tools: usual_tools(page.session.registry, entry)}
    about = {box.tools: list(wish.agent.tools), box.max_steps: wish.agent.max_steps, box.turn_length: wish.length}
    return {box.acts: True, **about}


def _cleared(page: Page) -> Updates:
    emptied = {k: v for panel in page.panels for k, v in panel.empty().items()}
    emptied |= page.about.empty()
    return {
        page.run: "",
        page.live: None,
        page.strip: None,
        page.side.notice: _info("Cleared. Press Run for a new result."),
        **emptied,
    }


def cancel(page: Page, place: Place, values: Mapping[Any, Any], asker: Asker) -> Iterator[Updates]:
    """Cancel was pressed and ended what was under way; the part of an answer that is there becomes the run."""
    asked = page.asked.find(asker.browser)
    if asked is not None:
        asked.job.cancelled.set()
        if asked.job.live is not None:  # an answer is in the making: soon there is a part of it
            yield {page.side.notice: _info("Cancelling."), page.live: None}
            if not asked.job.done.wait(PATIENCE):
                late = "Cancelled. The model is still in its last step; what was there stays."
                yield {page.side.notice: _info(late)}
                return
        run, asked.job.left = asked.job.left, None
        if isinstance(run, TracedRun) and (count := len(run.tokens) - (run.generated_from or len(run.tokens))):
            page.made.keep(run, asked.wish)
            whole = ended_by(run) != "cancelled"
            said = "Cancelled. " + (
                "The answer was complete." if whole else f"The answer so far is kept: {count} tokens."
            )
            yield from _show_run(page, asked.wish, run, place, values, _info(said), ask=True)
            return
    yield {page.live: None, **_cancelled(page, asker.run, place)}


def _cancelled(page: Page, run: str, place: Place) -> Updates:
    """What was there stays, unless it is of an earlier run than the one in the strip."""
    stale = [p for p in page.panels if p.analysis.name in place.shown and not shows(p, run, place)]
    said = "Cancelled before the picture of this run was there." if stale else "Cancelled. What was there stays."
    updates: Updates = {page.side.notice: _info(said), **{panel.notice: None for panel in page.panels}}
    for panel in stale:
        updates |= panel.empty()
    return updates


def _model_chosen(session: Session, name: str) -> tuple[Any, Any, Any]:
    entry = session.registry.models.get(name)
    tools = usual_tools(session.registry, entry)
    return gr.Textbox(visible=name == wishes.OWN), examples_value(entry.examples if entry else ()), tools


def _example(event: gr.EventData) -> tuple[str, str]:
    data = event._data if isinstance(event._data, Mapping) else {}
    return str(data.get("prompt", "")), str(data.get("category", ""))


def _info(text: str) -> dict[str, Any]:
    return {"kind": "info", "text": text, "share": 0.0}


def head(registry: Registry) -> str:
    """What goes into the page's head: scripts that are there before any component."""
    return page_scripts([*registry.renderers.values(), benchmark_view()])
