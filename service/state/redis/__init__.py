"""State in Redis, shared by every front that names the same ``SD_STATE_URL``. Needs the package ``redis``.

Keys begin with ``knative-diffusion:1:``, the 1 being the version of what is in them: an older version's keys are left
alone. Values are JSON, but previews. Everything has a lifetime but process-wide options and catalogues.

=====================  =======  ==================================================================
``options``            hash     process-wide options: name → JSON
``session:ID``         hash     a session's options; lives as long as a session does
``sessions``           zset     ids of sessions by last use, to bound their number
``task:ID``            string   a ``TaskRecord`` under way; its front renews it, or it goes
``preview:ID``         string   media type, a line break, the picture
``tasks``              zset     ids of tasks under way, by arrival
``ended:ID``           string   a ``TaskRecord`` that has ended
``ended``              zset     ids of ended tasks by their end, to bound their number
``catalogue:UPSTREAM`` string   what an upstream last said it has
``front:OWNER``        channel  commands to a front
=====================  =======  ==================================================================
"""
