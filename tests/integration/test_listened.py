"""What people say of samples while the run goes on: it is in the next verdict."""

from pathlib import Path

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import GatekeeperConfig
from xtts_gatekeeper.record import Journal, SampleScore, journal_path

RULES = """
version: 1
name: ears
objective: eval.objective
minimum_evaluations: 1
health:
  - {rule: threshold, metric: sample.score, minimum: 12, on_fail: tune}
"""


def test_a_score_that_another_process_writes_is_in_the_next_verdict(tmp_path, make_trainer):
    (tmp_path / "ears.yaml").write_text(RULES)

    def listened(trainer):
        if trainer.epochs_done == 0:
            score = SampleScore(step=0, epoch=0, metrics={"sample.score": 8.0}, by="listeners", listeners=2)
            Journal(journal_path(Path(trainer.output_path))).append(score)

    trainer = make_trainer(
        tmp_path / "runs",
        GatekeeperConfig(policy=str(tmp_path / "ears.yaml")),
        callbacks={"on_epoch_end": listened},
        epochs=2,
    )
    trainer.fit()
    record = read_run(trainer.output_path)
    assert [verdict.verdict for verdict in record.verdicts] == ["continue", "tune"]
    assert "sample.score" in record.verdicts[-1].reasons[0]["message"]
    assert not record.incidents
