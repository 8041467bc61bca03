"""Hold the norms of vectors by layer and token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cutaway.analyses.norms.layer_series import LayerSeries
from cutaway.analyses.norms.least_squares import Errors
from cutaway.analyses.norms.regression import Regression, regression
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Norms(LayerSeries, Result):
    """Norms of every vector, one row a layer, or a layer and head. `norms` is before any log."""

    analysis: ClassVar[str] = "norms.measure"
    title: ClassVar[str] = "How much does each layer write?"

    def table(self) -> pd.DataFrame:
        """Return one row a vector: document, window, position, layer, norm, log_norm; head and component ("head 3.1")
        where there are heads."""
        import pandas as pd

        rows, n = self.norms.shape
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(self.norms)
        columns: dict[str, Any] = {
            "document": np.tile(np.array(self.documents, dtype=object)[self.document], rows),
            "window": np.tile(self.window, rows),
            "position": np.tile(self.position, rows),
            **{name: np.repeat(numbers, n) for name, numbers in self.labels().items()},
            "norm": self.norms.ravel(),
            "log_norm": logs.ravel(),
            **{name: np.repeat(np.array(each, dtype=object), n) for name, each in self.components().items()},
        }
        return pd.DataFrame(columns)

    def by_layer(self) -> pd.DataFrame:
        """Summarise the values that charts show (position 0 left out), one row a layer or head.

        Columns: layer, mean, sd, low and high (the 5th and 95th percentile), tokens, and not_finite, the number of
        entries that these leave out; head and component ("head 3.1") where there are heads.
        """
        import pandas as pd

        rows = []
        for values in self.values[:, self.position > 0]:
            good = values[np.isfinite(values)]
            low, high = np.percentile(good, [5, 95]) if len(good) else (np.nan, np.nan)
            mean = good.mean() if len(good) else np.nan
            spread = good.std(ddof=1) if len(good) > 1 else np.nan
            rows.append((mean, spread, low, high, len(values), len(values) - len(good)))
        frame = pd.DataFrame(rows, columns=["mean", "sd", "low", "high", "tokens", "not_finite"])
        return pd.concat([pd.DataFrame(self.labels()), frame, pd.DataFrame(self.components())], axis=1)

    def summary(self) -> str:
        table = self.by_layer()
        documents = "1 text" if len(self.documents) == 1 else f"{len(self.documents):,} documents"
        last = f"{self.unit}; {int(table['tokens'].max()):,} tokens of {documents}, the first of each window left out"
        if self.heads:
            lines = ["layer  means of its heads"]
            for layer, heads in table.groupby("layer"):
                wrong = f"   {heads['not_finite'].sum():,} are not finite" if heads["not_finite"].any() else ""
                lines.append(f"{layer:>5}  {heads['mean'].min():.3f} to {heads['mean'].max():.3f}{wrong}")
            return "\n".join([*lines, last])
        lines = ["layer     mean      sd   5% to 95%"]
        for row in table.to_dict("records"):
            wrong = f"   {row['not_finite']:,} are not finite" if row["not_finite"] else ""
            span = f"{row['low']:.2f} to {row['high']:.2f}"
            lines.append(f"{self.named(row)}  {row['mean']:7.3f} {row['sd']:7.3f}   {span}{wrong}")
        return "\n".join([*lines, last])

    def caption(self) -> str:
        kind = "Natural logs of Euclidean norms" if self.log else "Euclidean norms"
        wrong = int(self.by_layer()["not_finite"].sum())
        return (
            f"{kind} of {self.of} at every token but the first of each window (position 0 is unlike all others). Left: "
            f"{'means by layer and head' if self.heads else 'each token a point, spread sideways'}. Right: "
            "how they are distributed, in bins by the rule of Freedman and Diaconis. Colours run from the first layer "
            "to the last." + (f" {wrong:,} values are not finite and are not shown." if wrong else "")
        )

    def regress(
        self,
        lags: int = 2,
        *,
        position: bool = False,
        pooled: bool = False,
        errors: Errors | None = None,
        held_out: float = 0.2,
        shuffles: int = 0,
        seed: int = 0,
    ) -> Regression:
        """Regress each norm on those of the tokens before, one regression a layer or head: see `norms.regress`."""
        return regression(
            self,
            self.meta,
            lags,
            position=position,
            pooled=pooled,
            errors=errors,
            held_out=held_out,
            shuffles=shuffles,
            seed=seed,
        )
