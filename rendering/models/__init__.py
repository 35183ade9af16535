"""How neural scenes are drawn: renderers behind the contract of engines, and their components."""
