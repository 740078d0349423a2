"""The dashboard *Engine*: what the devices make, what breaks, and what room is left."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import section, start
from dashboards.panels import Query, lines, number, rows, timeline
from dashboards.series import JOB, REVISION, increase, legend, of, rate, ratio, total
from service.metrics import STATES

LOOKUPS = f"{total(rate('sd_cache_hits_total'), 'cache')} + {total(rate('sd_cache_misses_total'), 'cache')}"
WORKING = ratio(total(rate("sd_steps_total")), total(rate("sd_device_seconds_total")))
COLOURS = {
    "starting": "light-blue",
    "loading": "blue",
    "ready": "green",
    "busy": "dark-green",
    "asleep": "purple",
    "draining": "orange",
    "failed": "red",
}


def _state() -> str:
    """Per pod, the number (from 1) of the state it is in."""
    numbered = (f"{of('sd_lifecycle_state', state=state)} * {i}" for i, state in enumerate(STATES, start=1))
    return f"max by (pod) ({' or '.join(numbered)})"


def build() -> Dashboard:
    """The dashboard."""
    board = start("engine", "Engine", "What the devices make, what breaks, and what room is left.")
    section(
        board,
        "Now",
        number(
            "Model",
            "The checkpoint in use; two names during a change.",
            Query(f"count by (model) ({of('sd_model_info')})", "{{model}}"),
            unit="short",
            width=6,
            name=True,
        ),
        number(
            "Images",
            "Images made per minute, over the time range shown.",
            Query(f"{total(rate('sd_images_total', '$__range'))} * 60"),
            unit="opm",
            width=6,
            decimals=1,
        ),
        number(
            "Steps per second",
            "Sampler steps per second and image while a device works: the speed of the hardware at this "
            "size.",
            Query(
                ratio(
                    total(rate("sd_steps_total", "$__range")),
                    total(rate("sd_device_seconds_total", "$__range")),
                )
            ),
            unit="iops",
            width=6,
            decimals=2,
        ),
        number(
            "Out of memory",
            "Requests answered 507 because the device had too little memory, in the time range shown.",
            Query(f"round({total(increase('sd_errors_total', '$__range', code='out_of_memory'))})"),
            unit="short",
            width=6,
            steps=((1, "red"),),
        ),
    )
    section(
        board,
        "Throughput",
        lines(
            "Images per second",
            "Images made, all pods together, by revision.",
            Query(total(rate("sd_images_total"), REVISION), legend(REVISION)),
            unit="ops",
            stack=True,
        ),
        lines(
            "Megapixels per second",
            "Pixels made in millions per second: the throughput that stays comparable when sizes change.",
            Query(f"{total(rate('sd_pixels_total'), REVISION)} / 1e6", f"{{{{{REVISION}}}}} MP/s"),
            unit="short",
            stack=True,
        ),
        lines(
            "Sampler steps per second",
            "Steps of all pods together (total), and per second that a device was held (while working).",
            Query(total(rate("sd_steps_total")), "total"),
            Query(WORKING, "while working"),
            unit="iops",
        ),
        lines(
            "Device busy",
            "Share of time for which each pod's device was held by a request; 1 all the time means more "
            "pods are due.",
            Query(rate("sd_device_seconds_total"), "{{pod}}"),
            unit="percentunit",
            top=1,
            steps=((0.95, "orange"),),
        ),
        lines(
            "Queue depth",
            "Requests that wait for the device inside the pods, against the most that may wait "
            "(SD_QUEUE_SIZE).",
            Query(total(of("sd_queue_depth")), "waiting"),
            Query(total(of("sd_in_flight")), "on the device"),
            Query(total(of("sd_queue_limit")), "limit"),
            unit="short",
        ),
        lines(
            "Running request",
            "How long the running request has held each device, against its deadline (SD_REQUEST_TIMEOUT). "
            "Above it: stuck.",
            Query(of("sd_running_seconds"), "{{pod}}"),
            Query(f"min({of('sd_request_timeout_seconds')})", "deadline"),
            unit="s",
            steps=((600, "red"),),
        ),
    )
    section(
        board,
        "What breaks",
        lines(
            "Errors by cause",
            "Errors answered, by code of the exception tree.",
            Query(total(rate("sd_errors_total"), "code"), "{{code}}"),
            unit="reqps",
            steps=((0.1, "red"),),
        ),
        lines(
            "Cancellations by cause",
            "Requests that were stopped: by an interrupt, by the client's leaving, at the deadline, by a "
            "shutdown, "
            "or because the client read too slowly.",
            Query(total(rate("sd_cancellations_total"), "cause"), "{{cause}}"),
            unit="reqps",
        ),
        rows(
            "Errors in the range shown",
            "How often each error was answered.",
            Query(
                f"sort_desc(round({total(increase('sd_errors_total', '$__range'), 'code')}))",
                "answers",
            ),
            keys=("code",),
            unit="short",
            steps=((1, "orange"),),
        ),
        lines(
            "Out-of-memory answers",
            "Requests answered 507: too large for the device. The process lives on; lower SD_MAX_PIXELS "
            "if they stay.",
            Query(total(rate("sd_errors_total", code="out_of_memory"), REVISION), legend(REVISION)),
            unit="reqps",
            steps=((0.01, "red"),),
        ),
        lines(
            "Connections closed early",
            "Connections closed because their client was slow, sent no HTTP, or there were too many.",
            Query(total(rate("sd_connections_closed_total"), "reason"), "{{reason}}"),
            unit="short",
        ),
        lines(
            "Files left out",
            "Files of the models folder that cannot be served, by pod; the log says which and why.",
            Query(of("sd_files_left_out"), "{{pod}}"),
            unit="short",
            steps=((1, "orange"),),
        ),
        timeline(
            "Lifecycle",
            "The state of each pod. Readiness that flickers makes the activator forget that a pod is busy.",
            Query(_state(), "{{pod}}"),
            states={str(i): (state, COLOURS[state]) for i, state in enumerate(STATES, start=1)},
        ),
        lines(
            "Readiness changes",
            "How often readiness turned off, by pod; more than now and then is flapping.",
            Query(
                total(increase("sd_readiness_changes_total", to="not_ready"), "pod"),
                "{{pod}}",
            ),
            unit="short",
            steps=((2, "red"),),
            height=6,
        ),
    )
    section(
        board,
        "Room",
        lines(
            "GPU memory",
            "Of the card or slice (total, used) and of this process (allocated, reserved). Empty without "
            "a GPU.",
            Query(f"max by (pod, kind) ({of('sd_gpu_memory_bytes')})", "{{kind}} {{pod}}"),
            unit="bytes",
        ),
        lines(
            "Asleep",
            "1 where the weights have left the device because nobody asked for an image (SD_IDLE_SLEEP).",
            Query(f"max by (pod, where) ({of('sd_weights_asleep')})", "{{where}} {{pod}}"),
            unit="short",
        ),
        lines(
            "RAM",
            "Resident memory of each pod's process; compare with the pod's limit.",
            Query(of("process_resident_memory_bytes", job=JOB), "{{pod}}"),
            unit="bytes",
            width=24,
        ),
        lines(
            "Memory of requests",
            "Main memory that requests hold (bodies, decoded pixels, answers on their way), against what they may "
            "(SD_MEMORY_BUDGET_MB); beyond it they are refused.",
            Query(total(of("sd_budget_bytes"), "kind"), "{{kind}}"),
            Query(total(of("sd_budget_limit_bytes")), "limit"),
            unit="bytes",
        ),
        lines(
            "Refused for want of memory",
            "Requests refused because the memory of requests was in use, by what they wanted it for.",
            Query(total(rate("sd_budget_refused_total"), "kind"), "{{kind}}"),
            unit="reqps",
            steps=((0.1, "orange"),),
        ),
        lines(
            "Cache hits",
            "Share of look-ups that a cache answered: text conditioning, and checkpoints that were still "
            "loaded.",
            Query(
                ratio(
                    total(rate("sd_cache_hits_total"), "cache"),
                    f"({LOOKUPS})",
                ),
                "{{cache}}",
            ),
            unit="percentunit",
            top=1,
        ),
        lines(
            "Cache look-ups",
            "Hits and misses per second; a checkpoint miss is a model load that a request waited for.",
            Query(total(rate("sd_cache_hits_total"), "cache"), "{{cache}} hit"),
            Query(total(rate("sd_cache_misses_total"), "cache"), "{{cache}} miss"),
            unit="ops",
        ),
        lines(
            "CPU",
            "Cores that each pod's process uses.",
            Query(rate("process_cpu_seconds_total", job=JOB), "{{pod}}"),
            unit="short",
        ),
        lines(
            "Sessions",
            "A1111 sessions (cookies) that each pod keeps in memory.",
            Query(of("sd_sessions"), "{{pod}}"),
            unit="short",
            steps=((9000, "orange"),),
        ),
        rows(
            "Models in use",
            "Checkpoint, its hash, device and precision, with the number of pods that serve it.",
            Query(f"count by (model, hash, device, dtype, {REVISION}) ({of('sd_model_info')})", "pods"),
            keys=("model", "hash", "device", "dtype", REVISION),
            unit="short",
            width=24,
            height=6,
        ),
    )
    return board
