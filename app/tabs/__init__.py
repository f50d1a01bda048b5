"""One module for each tab: `build(services)` lays it out; its handlers are module-level functions of plain values."""
