"""`python -m habari.local.hub_main` is `jupyterhub`, started sooner.

JupyterHub validates its events with jsonschema, which compiles a grammar of IRIs when imported: the better part
of the hub's start. jsonschema does without, and no event has an IRI.
"""

import sys

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None is how an import is refused

from jupyterhub.app import main  # noqa: E402 - only after the line above

if __name__ == "__main__":
    main()
