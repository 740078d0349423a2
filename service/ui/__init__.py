"""The page for people: a Gradio application that is a client of our own HTTP API, as any other client.

It knows an address, not an engine: the same page drives one process, the front, and Ray Serve. Nothing here is
imported unless the page is asked for (SD_UI, or ``python -m service ui``).
"""
