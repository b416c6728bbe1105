"""The whole pipeline on one machine, in some seconds: `fastjmix demo`.

    run.py          store, gateway and sender, one after the other
    derivation.py   the given configuration, with the addresses of this run
    show.py         what is printed

Guaranteed: the gateway and the store are the real programs, in processes of their own; the
gateway's configuration is the given one, of which only addresses are replaced, and the difference
is shown; both processes have ended when this returns; what was delivered stays in the directory.
Still wrong: it needs pydicom's test files beside pydicom, where its wheel puts them.

In the directory: config.toml and the pipelines (derived), store/ (the delivered envelopes),
gateway.log and store.log, and what the configuration keeps under relative paths.
"""

from fastjmix.tools.demo.derivation import DemoError, default_config, derive, rewrite
from fastjmix.tools.demo.run import MARK, instances_of_pydicom, run
from fastjmix.tools.demo.show import MEMBERS_SHOWN, show_members

__all__ = [
    "MARK",
    "MEMBERS_SHOWN",
    "DemoError",
    "default_config",
    "derive",
    "instances_of_pydicom",
    "rewrite",
    "run",
    "show_members",
]
