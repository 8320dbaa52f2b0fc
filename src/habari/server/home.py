"""The user's home as a part of the tree: Jupyter's own manager for files, with what it lacks for large ones."""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import traitlets
from jupyter_server.services.contents import largefilemanager
from nbformat import sign

from habari.server import paths

if TYPE_CHECKING:
    from habari.server import tree


class Home(largefilemanager.AsyncLargeFileManager):
    """Files below `root_dir`; its paths are those on disk, which the tree shows under other names where it must.

    Trust, hooks and events are those of the tree, so that they are the same in home and buckets.
    """

    parent: tree.Tree

    @traitlets.default("notary")
    def _notary_of_the_tree(self) -> sign.NotebookNotary:
        return self.parent.notary

    def emit(self, data: dict[str, Any]) -> None:
        """Emit an event with the path that the tree shows."""
        shown = {key: paths.unparse(paths.HomePlace(data[key])) for key in ("path", "source_path") if key in data}
        self.parent.emit(data | shown)

    def run_pre_save_hooks(self, model: Any, path: str, **kwargs: Any) -> None:
        """Run the hooks of files, then those of the tree; one set for both runs once."""
        if self.pre_save_hook is not None and self.pre_save_hook != self.parent.pre_save_hook:
            super().run_pre_save_hooks(model=model, path=path, **kwargs)
        self.parent.run_pre_save_hooks(model=model, path=paths.unparse(paths.HomePlace(path)), **kwargs)

    def run_post_save_hooks(self, model: Any, os_path: str) -> None:
        """Run the hooks of files, then those of the tree; one set for both runs once."""
        if self.post_save_hook is not None and self.post_save_hook != self.parent.post_save_hook:
            super().run_post_save_hooks(model=model, os_path=os_path)
        self.parent.run_post_save_hooks(model=model, os_path=os_path)

    def os_path(self, path: str) -> str:
        """Return where a path of the home lies on disk.

        Raises:
            HTTPError: With status 404, if that would be outside the home.
        """
        return str(self._get_os_path(path.strip("/")))
