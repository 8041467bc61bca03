"""Write results into self-contained HTML pages.

report([trace, lens], "report.html")       any results, in the order given (report.py)
standard(model, text)                      the results of a first look at a model (first_look.py)
page(title, figures)                       the page itself (page.py, page.html.j2, page.css, page.js)
"""
