"""Measures (tensors -> tables) and the command lines that produce the project's figures. No page code."""
