"""`fastjmix route explain`: which rule an instance would go by, and why.

explaining.py   a file, AE titles and an address → what each rule of each endpoint makes of them
show.py         that → lines
"""
