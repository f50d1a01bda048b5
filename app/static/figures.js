() => {
    // What the page's figures do in the browser: they can be saved, and they fit the screen. Run once.
    // Of plotly only `Plotly.downloadImage`, `Plotly.relayout`, and a figure's `data`, `layout` and `on` are used.

    // Saving, on white ground, as the page's is transparent.
    document.addEventListener('click', (event) => {
        const button = event.target.closest('.downloads button');
        if (!button || !window.Plotly) return;
        const { plot: name, format } = button.dataset, plot = document.querySelector(`#${name} .js-plotly-plot`);
        if (!plot || !plot.data) return;
        const { clientWidth: width, clientHeight: height } = plot;
        const layout = { ...plot.layout, paper_bgcolor: '#ffffff', width, height };
        const options = { format, filename: `latentcrf-${name}`, width, height, scale: format === 'png' ? 2 : 1 };
        window.Plotly.downloadImage({ data: plot.data, layout }, options);
    });

    // Fitting. plotly cuts titles that are longer than their figure: they are broken into lines. On a phone the type is
    // smaller and the margins are narrow. Each drawing by the server brings a new layout, which is fitted anew.
    const NARROW = 640, SMALL = 12;  // px
    const ruler = document.createElement('canvas').getContext('2d');
    const stripTags = (text) => text.replace(/<[^>]*>/g, '');
    const wrap = (text, size, room) => {
        ruler.font = `${size}px "Open Sans", verdana, arial, sans-serif`;
        const lines = [];
        for (const line of text.split('<br>')) {
            let open = '';
            for (const word of line.split(' ')) {
                const longer = open ? `${open} ${word}` : word;
                if (!open || ruler.measureText(stripTags(longer)).width <= room) open = longer;
                else { lines.push(open); open = word; }
            }
            lines.push(open);
        }
        return lines.join('<br>');
    };
    const countLines = (text) => text.split('<br>').length;
    const drawings = new WeakMap();  // layout -> what the server wanted of it (`was`), and the size it is fitted to
    const fit = (plot) => {
        const { layout, data } = plot, width = plot.clientWidth;
        if (!layout || !layout.margin || !data || !width || !window.Plotly) return;
        if (!plot.querySelector('.main-svg')) return;  // not drawn yet
        // A figure that gradio puts into a new element has a copy of the changed layout: `was` is in it, too.
        if (!drawings.has(layout)) {
            const was = layout.meta && layout.meta.was || structuredClone(layout);
            layout.meta = { ...layout.meta, was };
            drawings.set(layout, { was });
        }
        const drawing = drawings.get(layout), { was } = drawing;
        const top = Math.round(plot.getBoundingClientRect().top + window.scrollY);
        const size = `${width} ${window.innerHeight} ${top}`;
        if (drawing.size === size) return;
        drawing.size = size;
        const narrow = width < NARROW, changes = {};
        const shrink = (font) => narrow ? Math.max(SMALL, Math.min(font, SMALL + 3)) : font;
        const change = (name, now, before) => { if (now !== before) changes[name] = now; };
        const base = was.font.size, font = narrow ? SMALL : base;
        change('font.size', font, layout.font.size);
        // On a phone a legend inside the plot would cover marks: it goes below the axis' title, two names a row.
        const inside = Boolean(narrow && was.legend && was.legend.orientation !== 'h' && was.xaxis.title);
        const below = { orientation: 'h', yref: 'container', yanchor: 'bottom', y: 0, xanchor: 'left', x: 0 };
        const names = data.filter(({ showlegend, name }) => showlegend !== false && name).length;
        for (const [name, value] of inside ? Object.entries(below) : []) changes[`legend.${name}`] = value;
        const titleLines = inside ? countLines(wrap(was.xaxis.title.text, font, width - 60)) : 0;
        const b = inside ? Math.round(30 + 1.6 * font * (titleLines + Math.ceil(names / 2))) : 40;
        const margin = narrow ? { l: 8, r: 8, b } : { l: was.margin.l, r: was.margin.r, b: was.margin.b };
        for (const side of ['l', 'r', 'b']) change(`margin.${side}`, margin[side], layout.margin[side]);
        const titleFont = shrink(was.title.font.size);
        const title = wrap(was.title.text, titleFont, width - 2 * titleFont);
        let more = 1.3 * titleFont * (countLines(title) - countLines(was.title.text));
        const columns = was.xaxis && was.xaxis.side === 'top' && was.xaxis.ticktext;  // of an image grid's columns
        if (columns) {
            const room = (width - 100) / columns.length;
            const now = columns.map((name) => narrow ? wrap(name, font, room) : name);
            if (now.join() !== layout.xaxis.ticktext.join()) changes['xaxis.ticktext'] = now;
            more += 1.3 * font * (Math.max(...now.map(countLines)) - Math.max(...columns.map(countLines)));
        }
        change('title.text', title, layout.title.text);
        change('title.font.size', titleFont, layout.title.font.size);
        const above = Math.round(was.margin.t + more);
        change('margin.t', above, layout.margin.t);
        // A figure at the top of the page is no higher than the screen, its axis in sight; images keep their size. In
        // presentation it fills the screen, and those below it are no higher than the screen.
        const isFirst = top < window.innerHeight / 2, free = window.innerHeight - (isFirst ? top : 0) - 8;
        const hasPictures = data.some(({ type }) => type === 'image');
        let height = was.height;
        if (!narrow && document.body.classList.contains('presentation')) {
            height = isFirst ? Math.max(380, free) : Math.min(height, free);
        } else if (!narrow && isFirst && !hasPictures) height = Math.min(height, Math.max(380, free));
        // Pictures are as high as a phone's width lets them be (meta: height over width).
        if (narrow && was.meta && was.meta.aspect) {
            height = Math.min(height, Math.round((width - 100) * was.meta.aspect + above + 60));
        }
        if (inside) height += b - 40;
        const room = { x: width - margin.l - margin.r - 4 * font, y: height - above - margin.b - 3 * font - 60 * inside };
        for (const name of Object.keys(was).filter((each) => /^[xy]axis\d*$/.test(each))) {
            const wanted = was[name].title;
            if (!wanted || !wanted.text) continue;
            const [begin, end] = was[name].domain || [0, 1], own = wanted.font && wanted.font.size || 1.2 * base;
            const now = Math.min(shrink(own), own), before = layout[name].title;
            change(`${name}.title.text`, wrap(wanted.text, now, room[name[0]] * (end - begin)), before.text);
            change(`${name}.title.font.size`, now, before.font && before.font.size);
        }
        const notes = was.annotations || [], rows = {};
        for (const note of notes) rows[note.y] = (rows[note.y] || 0) + 1;
        notes.forEach((note, k) => {  // the titles of subplots, side by side
            if (note.xref !== 'paper' && !/paper|domain/.test(note.yref)) {  // labels of marks: a phone has no room for them
                change(`annotations[${k}].visible`, !narrow, layout.annotations[k].visible !== false);
                return;
            }
            if (note.xref !== 'paper' || note.yref !== 'paper' || note.textangle) return;
            const now = shrink(note.font && note.font.size || base);
            change(`annotations[${k}].text`, wrap(note.text, now, room.x / rows[note.y]), layout.annotations[k].text);
            change(`annotations[${k}].font.size`, now, (layout.annotations[k].font || {}).size);
        });
        // The element's size, not the layout's: with that plotly would no longer follow the width of the window.
        plot.style.height = `${height}px`;
        delete layout.height;
        delete layout.width;
        window.Plotly.relayout(plot, { ...changes, autosize: true });
    };
    setInterval(() => document.querySelectorAll('.js-plotly-plot').forEach(fit), 250);
}
