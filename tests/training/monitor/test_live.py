"""The last records on the screen, in a terminal, a file and a notebook."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import wnconvert
from tests.processes import run_code
from wnconvert.errors import OptionError
from wnconvert.training.monitor import live
from wnconvert.training.monitor.live import LiveTable, View
from wnconvert.training.monitor.measuring import Record
from wnconvert.training.monitor.monitoring import Monitor

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
RECORDS = [Record(4, f"layers.{index}.weight", "weight_norm", norm=1.0, dead=0, exploding=0) for index in range(30)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return wnconvert.apply(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))).model


def screen(**options: Any) -> Console:
    return Console(**{"file": io.StringIO(), "width": 100, "height": 40, "force_terminal": True, **options})


def watched(console: Console, steps: int = 4, says: str = "printed by step", **options: Any) -> str:
    """What the console shows of some steps of training, which print, too."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=2, live=console, **options):
        for step in range(steps):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
            if says:
                sys.stdout.write(f"{says} {step}\n")
    return console.file.getvalue()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAUSE", 0)


def rendered(records: list[Record], **options: Any) -> list[str]:
    console = screen(**options)
    console.print(View(4, records))
    return console.file.getvalue().splitlines()


def test_a_terminal_has_it_anew_with_each_record_and_what_is_printed_above():
    shown = watched(screen())
    assert shown.index("step 0: nothing recorded yet") < shown.index("step 2: 2 weights") < shown.index("step 4:")
    # drawn in place of the last one, and the cursor is there again
    assert "\x1b[1A" in shown
    assert shown.index("printed by step 3") < shown.rindex("step 4: 2 weights")
    assert shown.endswith("\x1b[?25h")


def test_a_file_has_it_once_and_without_control_codes(capsys):
    shown = watched(screen(force_terminal=False))
    assert "\x1b" not in shown
    assert [line.split()[0] for line in shown.splitlines()] == ["step", "weight", "0", "2"]
    assert shown.endswith("\n")
    assert capsys.readouterr().out.count("printed") == 4


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_terminal_that_can_less_is_taken_as_it_is(environment):
    shown = watched(screen(_environ=environment), dead=1)
    assert "31m" not in shown
    assert ("\x1b" in shown) is (environment["TERM"] != "dumb")
    assert "step 4: 2 weights, 6 dead" in shown


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_screen(width):
    every = Record(4, "x" * 300, "weight_norm", *range(14))
    lines = rendered([*RECORDS[:19], every], width=width, force_terminal=False)
    assert max(map(len, lines)) <= width
    assert len(lines) == 22


@pytest.mark.parametrize(("height", "count"), [(40, 20), (16, 10), (3, 1)])
def test_no_more_weights_are_shown_than_there_are_lines_for(height, count):
    lines = rendered(RECORDS, height=height)
    assert len(lines) == count + 2
    assert lines[0] == f"step 4: {count} of 30 weights"


def test_weights_that_are_ill_come_before_others_and_stand_out():
    ill = Record(4, "head.weight", "weight_norm", norm=1.0, dead=3, exploding=1)
    lines = rendered([*RECORDS, ill], color_system="standard")
    assert lines[0] == "step 4: 20 of 31 weights, 3 dead, 1 exploding"
    assert lines[-1].startswith("\x1b[1;31mhead")
    assert not [line for line in lines[2:-1] if "\x1b" in line]
    # of the colors of the terminal, which are for its background, be it light or dark
    assert lines[1].startswith("\x1b[2m")


def test_names_are_no_markup():
    assert "[red]" in rendered([Record(1, "[red].x", "weight_norm", norm=1.0)])[2]


def test_names_are_told_as_well_as_a_terminal_can(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    model = nn.Sequential()
    model.add_module("schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel", net())
    with Monitor(model, live=True) as monitor:
        monitor.record()
    stream.flush()
    assert b"schl?ssel.0" in stream.buffer.getvalue()


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("terminal", [True, False])
def test_training_goes_on_when_nobody_listens(terminal):
    console = live.Screen(file=Closed(), force_terminal=terminal)
    with Monitor(net(), live=console) as monitor:
        monitor.record()
    assert len(monitor.records) == 2
    assert sys.stdout is not console.file


class Cell:
    def __init__(self) -> None:
        self.shown: list[View] = []

    def update(self, view: View) -> None:
        self.shown.append(view)


def test_a_notebook_has_one_cell_that_changes(monkeypatch):
    cells: list[Cell] = []

    def display(view: View, *, display_id: bool) -> Cell:
        assert display_id
        cells.append(Cell())
        cells[-1].update(view)
        return cells[-1]

    module = ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    assert not watched(screen(force_jupyter=True))
    (cell,) = cells
    assert [view.step for view in cell.shown] == [0, 2, 4, 4]
    bundle = cell.shown[-1]._repr_mimebundle_((), ())
    assert "step 4: 2 weights" in bundle["text/html"]
    assert "step 4: 2 weights" in bundle["text/plain"]


def test_it_is_not_drawn_more_often_than_one_can_see(monkeypatch):
    monkeypatch.setattr(live, "_PAUSE", 3600)
    shown = watched(screen(), steps=20, says="")
    assert [shown.count(f"step {step}:") for step in (2, 4, 18, 20)] == [1, 0, 0, 1]


def test_it_ends_after_an_error_and_begins_again():
    console, model, stdout = screen(), net(), sys.stdout
    monitor = Monitor(model, live=console)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), monitor:
            _ = 1 / (sys.stdout is stdout)  # which it is not
        assert sys.stdout is stdout
        assert console.file.getvalue().endswith("\x1b[?25h")
    assert not console._live_stack


def test_without_a_context_nothing_is_shown():
    console = screen()
    Monitor(net(), live=console).record()
    assert console.file.getvalue() == ""


def test_two_of_them_stand_one_above_the_other():
    console, one, other = screen(), Monitor(net(), live=True), Monitor(net(), live=True)
    assert one._table._console is other._table._console
    with Monitor(net(), live=console) as outer, Monitor(net(), live=console) as inner:
        outer.record(), inner.record()
    assert console.file.getvalue().count("step 0: 2 weights") >= 4


def test_only_the_first_process_shows_it(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank, shown in ((0, True), (1, False)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        console, table = screen(force_terminal=False), None
        table = LiveTable(console)
        table.start(View(0, []))
        table.stop(View(0, []))
        assert bool(console.file.getvalue()) is shown


def test_the_trainer_of_transformers_shows_it_from_its_start_to_its_end():
    console = screen()
    callback = wnconvert.MonitorCallback(Monitor(net(), every=1, live=console))
    optimizer = torch.optim.SGD(callback.monitor._model.parameters(), lr=0.1)
    callback.on_train_begin()
    callback.on_optimizer_step(optimizer=optimizer)
    callback.on_train_end()
    assert "step 1: 2 weights" in console.file.getvalue()
    assert console.file.getvalue().endswith("\x1b[?25h")


def test_what_is_no_console_is_named():
    for wrong in ("yes", 1, None, sys.stderr):
        with pytest.raises(OptionError, match=r"live is .*; it must be True, False, or a Console of rich"):
            Monitor(net(), live=wrong)


def test_it_is_imported_where_it_is_asked_for_alone(tmp_path: Path) -> None:
    code = (
        "import sys, torch, wnconvert\n"
        "model = wnconvert.apply(torch.nn.Linear(2, 2)).model\n"
        "for live in (False, True):\n"
        "    with wnconvert.Monitor(model, live=live) as monitor: monitor.record()\n"
        "    print('wnconvert.training.monitor.live' in sys.modules)"
    )
    done = run_code(code, cwd=tmp_path)
    assert done.out == "False\nTrue\n"
    assert done.err.startswith("step 0: 1 weight\nweight ")
