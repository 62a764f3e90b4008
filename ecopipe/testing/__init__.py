"""A test kit for the contract of a loader, of whatever library: name a factory, and see which laws it keeps.

A *factory* makes the loader of one rank, over a small shuffled data set whose batches hold their samples' keys::

    # my_loaders.py
    def train(*, rank, world_size, workers, seed):
        return MyLoader(...)

    $ python -m ecopipe.testing my_loaders:train

Each law runs the loader in fresh processes, because loaders hang, leak and crash: a run that takes longer than
``timeout_s`` hangs, and that is a result, not the end of the check. With pytest::

    @pytest.mark.parametrize("law", ecopipe.testing.LAWS)
    def test_the_loader_keeps_its_contract(law):
        assert not ecopipe.testing.check("my_loaders:train", laws=[law]).failures

A loader that is used in another way than ``for batch in loader``, ``batch["keys"]``, ``state_dict`` and
``load_state_dict`` is described by a :class:`Contract`, and named in place of the factory. What it does not offer is
None there, and "not offered" in the report.

Linux only: what a process leaves behind is read from ``/proc``.
"""

from __future__ import annotations

from ecopipe.testing.contract import Contract
from ecopipe.testing.report import Report, Verdict
from ecopipe.testing.suite import LAWS, check, statement

__all__ = ["LAWS", "Contract", "Report", "Verdict", "check", "statement"]
