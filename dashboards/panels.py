"""The kinds of panel that the dashboards are made of, each with a unit, thresholds and a sentence of help.

Widths are in Grafana's 24 columns. Below 769 px Grafana stacks panels over the whole width, so legends stand
under the graph, never beside it, and titles are short.
"""

from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as dashboard_builder
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

Steps = tuple[tuple[float, str], ...]
"""Thresholds: (value from which on, colour); below the first one it is green."""

NONE: Final[Steps] = ()
Panel = Builder[dashboard.Panel]


class Query(NamedTuple):
    """One PromQL expression of a panel and the legend of its series."""

    expr: str
    legend: str = ""


def _target(query: Query, ref: str, *, instant: bool, form: PromQueryFormat) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend or "__auto").ref_id(ref)
    target.datasource(SOURCE).format(form)
    return target.instant() if instant else target.range()


def _thresholds(steps: Steps, base: str = "green") -> dashboard_builder.ThresholdsConfig:
    levels = [dashboard.Threshold(value=None, color=base)]
    levels += [dashboard.Threshold(value=value, color=color) for value, color in steps]
    return dashboard_builder.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(levels)


def _refs(queries: tuple[Query, ...]) -> list[tuple[Query, str]]:
    return [(query, chr(ord("A") + index)) for index, query in enumerate(queries)]


def number(
    title: str,
    help_text: str,
    *queries: Query,
    unit: str,
    steps: Steps = NONE,
    base: str = "green",
    width: int = 4,
    decimals: int | None = None,
    empty: str = "–",
    name: bool = False,
) -> Panel:
    """A big number, as of the end of the time range; ``name`` shows the series' legend instead."""
    panel = stat.Panel().title(title).description(help_text).datasource(SOURCE).span(width).height(4)
    panel.unit(unit).thresholds(_thresholds(steps, base)).no_value(empty)
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    panel.color_scheme(dashboard_builder.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.reduce_options(common_builder.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.text_mode(common.BigValueTextMode.NAME if name else common.BigValueTextMode.VALUE)
    if decimals is not None:
        panel.decimals(decimals)
    for query, ref in _refs(queries):
        panel.with_target(_target(query, ref, instant=True, form=PromQueryFormat.TIME_SERIES))
    return panel


def lines(
    title: str,
    help_text: str,
    *queries: Query,
    unit: str,
    steps: Steps = NONE,
    width: int = 12,
    height: int = 8,
    stack: bool = False,
    bars: bool = False,
    top: float | None = None,
    interval: str | None = None,
) -> Panel:
    """Values over time, as lines, stacked areas or bars; thresholds are drawn as dashed lines."""
    panel = timeseries.Panel().title(title).description(help_text).datasource(SOURCE)
    panel.span(width).height(height).unit(unit).min(0).thresholds(_thresholds(steps))
    panel.color_scheme(
        dashboard_builder.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME)
    )
    panel.line_width(0 if bars else 2).fill_opacity(80 if bars else 40 if stack else 8)
    panel.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
    panel.show_points(common.VisibilityMode.AUTO)
    panel.span_nulls(False)
    if stack:
        panel.stacking(common_builder.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if steps:
        panel.thresholds_style(
            common_builder.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    if top is not None:
        panel.max(top)
    if interval is not None:
        panel.interval(interval)
    legend = common_builder.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST)
    panel.legend(legend.placement(common.LegendPlacement.BOTTOM))
    tooltip = common_builder.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common.SortOrder.DESCENDING))
    for query, ref in _refs(queries):
        panel.with_target(_target(query, ref, instant=False, form=PromQueryFormat.TIME_SERIES))
    return panel


def heat(
    title: str, help_text: str, query: Query, *, steps: Steps, width: int = 12, height: int = 8
) -> Panel:
    """How many observations fell into each bucket of a histogram over time; the y axis is seconds."""
    panel = heatmap.Panel().title(title).description(help_text).datasource(SOURCE).span(width).height(8)
    panel.unit("s").thresholds(_thresholds(steps)).calculate(False).cell_gap(1).show_legend()
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heatmap_model.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
        .fill("dark-orange")
    )
    panel.y_axis(heatmap.YAxisConfig().unit("s").axis_placement(common.AxisPlacement.LEFT))
    panel.rows_frame(heatmap.RowsHeatmapOptions().layout(common.HeatmapCellLayout.LE))
    panel.filter_values(heatmap.FilterValueRange().le(1e-9))
    panel.mode(common.TooltipDisplayMode.SINGLE).show_y_histogram().show_color_scale(True)
    panel.exemplars_color("rgba(255,0,255,0.7)")
    panel.with_target(_target(query, "A", instant=False, form=PromQueryFormat.HEATMAP))
    return panel


def rows(
    title: str,
    help_text: str,
    *queries: Query,
    keys: tuple[str, ...],
    unit: str,
    steps: Steps = NONE,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """A table: the labels ``keys`` of each series, then one column per query, headed by its legend.

    Several queries are joined by the first key.
    """
    panel = table.Panel().title(title).description(help_text).datasource(SOURCE).span(width).height(height)
    panel.unit(unit).thresholds(_thresholds(steps)).show_header(True).cell_height(common.TableCellHeight.SM)
    panel.color_scheme(dashboard_builder.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.cell_options(common.TableColorTextCellOptions() if steps else common.TableAutoCellOptions())
    for query, ref in _refs(queries):
        panel.with_target(_target(query, ref, instant=True, form=PromQueryFormat.TABLE))
        panel.override_by_name(
            f"Value #{ref}" if len(queries) > 1 else "Value",
            [dashboard.DynamicConfigValue(id_val="displayName", value=query.legend)],
        )
    if len(queries) > 1:
        panel.with_transformation(
            dashboard.DataTransformerConfig(
                id_val="joinByField", options={"byField": keys[0], "mode": "outer"}
            )
        )
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="filterFieldsByName", options={"include": {"pattern": f"^({'|'.join(keys)}|Value.*)$"}}
        )
    )
    return panel


def timeline(
    title: str,
    help_text: str,
    query: Query,
    *,
    states: dict[str, tuple[str, str]],
    width: int = 12,
    height: int = 6,
) -> Panel:
    """Bands of state over time; ``states`` maps a value to its (text, colour)."""
    panel = statetimeline.Panel().title(title).description(help_text).datasource(SOURCE)
    panel.span(width).height(height).unit("short").thresholds(_thresholds(NONE))
    panel.mappings(
        [
            dashboard.ValueMap(
                options={
                    value: dashboard.ValueMappingResult(text=text, color=color, index=index)
                    for index, (value, (text, color)) in enumerate(states.items())
                }
            )
        ]
    )
    panel.show_value(common.VisibilityMode.NEVER).row_height(0.8).merge_values(True).fill_opacity(80)
    legend = common_builder.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST)
    panel.legend(legend.placement(common.LegendPlacement.BOTTOM))
    panel.with_target(_target(query, "A", instant=False, form=PromQueryFormat.TIME_SERIES))
    return panel
