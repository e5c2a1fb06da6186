import json
import logging

from plinth.pipelines.runlog import CURRENT_RUN, logging_to


def test_a_run_keeps_what_its_packages_log_and_nothing_of_other_runs(tmp_path):
    ours, theirs = logging.getLogger("plinth.some.room"), logging.getLogger("elsewhere")
    level = logging.getLogger("plinth").level
    with logging_to(tmp_path / "run.log", "run-1", ["plinth", "product.module"]):
        ours.info("kept %d", 1)
        theirs.warning("another package")
        logging.getLogger("product").warning("the product's")
        token = CURRENT_RUN.set("run-2")
        ours.info("another run's")
        CURRENT_RUN.reset(token)
        try:
            raise ValueError("broken")
        except ValueError:
            ours.exception("with its trace")
    ours.warning("after the run")
    lines = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert [line["message"] for line in lines] == ["kept 1", "the product's", "with its trace"]
    assert {line["run_id"] for line in lines} == {"run-1"}
    assert "ValueError: broken" in lines[2]["exception"]
    assert logging.getLogger("plinth").level == level
    assert not logging.getLogger("plinth").handlers
