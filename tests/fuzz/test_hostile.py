"""What the campaigns of hostile files count, against a reader that does everything wrong."""

import hostile

from wfm_ar.errors import BadClip


def test_what_the_command_line_would_call_an_internal_error_is_counted():
    raised = [hostile.Failure("silently short"), BadClip("not caught"), FileNotFoundError(2, "gone"), OSError("no number"), KeyError("a")]

    def check(case):
        if case < len(raised):
            raise raised[case]
        return "taken"

    report = hostile.run_cases("some", ((str(i), i) for i in range(7)), check)
    assert len(report.failures) == 5 and report.bugs == 2 and report.outcomes == {"taken": 2}
    kept = report.kept()
    assert (kept["cases"], kept["failures"], kept["exit_70"]) == (7, 5, 2)
