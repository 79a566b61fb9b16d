"""The web page of `gendr demo`: drop a picture, compare before and after by a slider.

    engine.py   restores a file, and writes previews and the result; without a page
    page.py     the page, by Gradio (extra `[demo]`)

The page works offline: it loads no fonts, scripts or statistics from the network.
"""
