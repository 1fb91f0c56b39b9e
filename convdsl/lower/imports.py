"""`import "blocks.cnn" (cbr)`: reads other files and enters their blocks and modules by name.

A path is relative to the file it is written in and stays, symbolic links resolved, inside the root
folder of the program. A file is read once however often it is imported. Its nets, inputs and
outputs do not matter here; its lets and defaults stay its own.
"""

from pathlib import Path

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.lower.budget import Exhausted, Limits, exceeded
from convdsl.lower.findings import Failed, Findings, failure, suggestion
from convdsl.lower.unit import Unit, collect
from convdsl.source import Source, Span
from convdsl.syntax import ast
from convdsl.syntax.parser import parse
from convdsl.syntax.reader import read_source

SUFFIX = ".cnn"


class Importer:
    """Follows the imports of one program. ``units`` holds every file read, by resolved path."""

    def __init__(self, root: Path | None, limits: Limits, findings: Findings) -> None:
        self._root = root.resolve() if root is not None else None
        self._limits = limits
        self._findings = findings
        self._text = 0
        self.units: dict[Path, Unit] = {}

    def follow(self, unit: Unit, open_files: tuple[Path, ...] = ()) -> None:
        """Carry out the imports of ``unit``. ``open_files``: those being imported around it.

        Finds E300 to E303 and what the imported files themselves have wrong. Raises Exhausted.
        """
        for statement in unit.program.statements:
            if not isinstance(statement, ast.Import):
                continue
            try:
                path = self._locate(statement, unit)
                imported = self._load(path, statement, open_files)
            except Failed as failed:
                self._findings.add(failed.diagnostic)
                self._stand_in(unit, statement)
            except CompileError as error:
                self._findings.extend(error.diagnostics)
                self._stand_in(unit, statement)
            else:
                self._enter(unit, imported, statement)

    def _locate(self, statement: ast.Import, unit: Unit) -> Path:
        """The file meant. Raises Failed E301 if it lies outside or is no program."""
        span = statement.path_span
        if self._root is None or unit.folder is None:
            raise failure(
                "E301", "imports need a file to start from", span, "save the program in a file"
            )
        try:
            path = (unit.folder / statement.path).resolve()
            readable = path.is_file()
        except (OSError, ValueError, RuntimeError):
            raise failure("E301", "this is no path of a file", span) from None
        if not path.is_relative_to(self._root):
            raise failure(
                "E301",
                "the file lies outside the folder of the program",
                span,
                "copy it into that folder",
            )
        if path.suffix != SUFFIX:
            raise failure("E301", f"only {SUFFIX} files can be imported", span)
        if not readable:
            raise failure("E300", "cannot read the imported file: no such regular file", span)
        return path

    def _load(self, path: Path, statement: ast.Import, open_files: tuple[Path, ...]) -> Unit:
        """The file's tables, its own imports followed."""
        span = statement.path_span
        if path in open_files:
            cycle = [p.name for p in (*open_files[open_files.index(path) :], path)]
            raise failure("E302", "import cycle: " + " -> ".join(cycle), span)
        if path in self.units:
            return self.units[path]
        if len(self.units) >= self._limits.imports:
            raise Exhausted(exceeded("imported files", self._limits.imports, span))
        if len(open_files) >= self._limits.depth:
            raise Exhausted(exceeded("imports inside one another", self._limits.depth, span))
        try:
            # Findings show the path as the user would write it, not as it resolves.
            shown = Path(span.source.name).parent / statement.path
            text = read_source(path).text
            self._text += len(text)
            if self._text > self._limits.text:
                raise Exhausted(exceeded("imported characters", self._limits.text, span))
            program = parse(Source(str(shown), text))
        except CompileError as error:
            raise CompileError([_placed(d, span) for d in error.diagnostics]) from None
        unit = collect(program, path.parent, {}, self._limits, self._findings)
        self.units[path] = unit
        self.follow(unit, (*open_files, path))
        return unit

    def _enter(self, unit: Unit, imported: Unit, statement: ast.Import) -> None:
        own = {n: r for n, r in imported.recipes.items() if r.unit is imported}
        for name, span in statement.names:
            if name in own:
                unit.define(name, own[name], span, self._findings)
                continue
            self._findings.add(
                failure(
                    "E303",
                    f"{Path(statement.path).name} defines no block or module `{name}`",
                    span,
                    suggestion(name, own),
                    ("a file passes on only what it defines itself",)
                    if name in imported.recipes
                    else (),
                ).diagnostic
            )
            unit.unresolved.add(name)

    def _stand_in(self, unit: Unit, statement: ast.Import) -> None:
        unit.unresolved.update(name for name, _ in statement.names)


def _placed(diagnostic: Diagnostic, span: Span) -> Diagnostic:
    """A finding about a whole file, such as one that cannot be read, points at the import."""
    if diagnostic.labels:
        return diagnostic
    return Diagnostic(
        diagnostic.code,
        diagnostic.message,
        (Label(span),),
        help=diagnostic.help,
        notes=diagnostic.notes,
    )
