"""The web page of `gendr demo`: a picture in, a slider between before and after.

    engine.py   a file and settings -> files to show and to take away; no page
    page.py     the page, by Gradio (extra `[demo]`)

It needs no network: no fonts, scripts or figures go in or out.
"""
