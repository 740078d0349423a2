"""From the wanted scale to replicas: bounds, and the slow way to zero.

After ``pkg/reconciler/autoscaling/kpa/scaler.go`` and ``computeActiveCondition`` of knative/serving. The
:class:`PodAutoscaler` is the status that Knative keeps on the object of that name. Times are seconds.
"""

from dataclasses import dataclass
from enum import Enum

UNKNOWN_SCALE = -1
ACTIVATION_BUFFER_SECONDS = 30.0
PROXY_REENQUEUE_SECONDS = 3.0
PROBE_SECONDS = 1.0


class Activity(Enum):
    """The Active condition: Unknown, True, False."""

    ACTIVATING = "activating"
    ACTIVE = "active"
    INACTIVE = "inactive"


@dataclass
class PodAutoscaler:
    """Activity and since when, whether the initial scale was ever reached, since when activators are in the
    path.
    """

    activity: Activity = Activity.INACTIVE
    since: float = 0.0
    initialized: bool = False
    proxy_since: float | None = 0.0

    def mark(self, activity: Activity, now: float) -> None:
        """Sets the condition; its clock starts again only if it changes."""
        if activity is not self.activity:
            self.activity = activity
            self.since = now


@dataclass
class ScalerSettings:
    """What bounds the scale. ``max_scale`` 0: no bound. Seconds throughout."""

    min_scale: int = 0
    max_scale: int = 0
    initial_scale: int = 1
    stable_window: float = 60.0
    grace_period: float = 30.0
    pod_retention: float = 0.0
    progress_deadline: float = 600.0
    enable_scale_to_zero: bool = True
    target_burst_capacity: float = 211.0
    reachable: bool = True


@dataclass(frozen=True)
class Decision:
    """The scale in force, whether to write it to the Deployment, and in how many seconds to come back."""

    scale: int
    apply: bool
    again_in: float | None = None


def apply_bounds(least: int, most: int, wanted: int) -> int:
    """``wanted`` within ``least``..``most``; ``most`` 0 is no bound."""
    if wanted < least:
        return least
    return most if most and wanted > most else wanted


class Scaler:
    """Decides what to do with a wanted scale, given the status of the PodAutoscaler."""

    def __init__(self, settings: ScalerSettings) -> None:
        self.settings = settings

    def scale(
        self, pa: PodAutoscaler, wanted: int, now: float, *, activator_answers: bool = True
    ) -> Decision:
        """``wanted`` from the autoscaler (−1: no data yet); ``activator_answers``: the probe of the route."""
        s = self.settings
        if wanted < 0 and pa.activity is not Activity.ACTIVATING:
            return Decision(wanted, False)
        least = s.min_scale if s.reachable else 0
        if s.initial_scale > 1 and not pa.initialized and s.reachable:
            least = max(s.initial_scale, least)
        wanted = apply_bounds(least, s.max_scale, wanted)
        if wanted != 0:
            return Decision(wanted, wanted > 0)
        return self._to_zero(pa, now, activator_answers)

    def _to_zero(self, pa: PodAutoscaler, now: float, activator_answers: bool) -> Decision:
        s = self.settings
        if not s.enable_scale_to_zero:
            return Decision(1, True)
        held = now - pa.since
        if pa.activity is Activity.ACTIVATING:
            limit = s.progress_deadline + ACTIVATION_BUFFER_SECONDS
            if held > limit:
                return Decision(0, True)
            return Decision(UNKNOWN_SCALE, False, limit)
        if pa.activity is Activity.ACTIVE:
            if held >= s.stable_window:  # marked inactive now; back soon where nothing else would wake us
                return Decision(0, False, PROXY_REENQUEUE_SECONDS if pa.proxy_since is not None else None)
            return Decision(1, True, s.stable_window - held)
        if s.target_burst_capacity != -1 and not activator_answers:
            return Decision(0, False, PROBE_SECONDS)
        retention = s.pod_retention if s.reachable else 0.0
        if held >= max(s.grace_period, retention):
            return Decision(0, True)
        if retention > held:
            return Decision(0, False, retention - held)
        proxied = now - pa.proxy_since if pa.proxy_since is not None else 0.0
        if proxied >= s.grace_period:
            return Decision(0, True)
        return Decision(0, False, s.grace_period - proxied)

    def threshold(self, pa: PodAutoscaler) -> int:
        """Ready pods that make the revision active."""
        s = self.settings
        return max(s.min_scale, 1 if pa.initialized else s.initial_scale)

    def observe(self, pa: PodAutoscaler, want: int, ready: int, now: float) -> None:
        """Updates the Active condition after a decision that left ``want`` in force with ``ready`` ready
        pods.
        """
        enough = self.threshold(pa)
        if ready >= enough:
            pa.initialized = True
        if want == 0 or enough == 0:
            pa.mark(Activity.INACTIVE, now)
        elif want > 0 or pa.activity is not Activity.INACTIVE:
            pa.mark(Activity.ACTIVATING if ready < enough else Activity.ACTIVE, now)
