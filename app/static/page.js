() => {
    // What the page's figures do in the browser: what they draw can be saved, and they fit the screen. Run once.

    // Saving. Images are made by plotly's own button (hidden until one points at the figure), on white ground, as the
    // page's is transparent. A CSV has a row a point: the trace's name, where there are several the panel
    // and the axes, the point's name where it has one, x, y, the lengths of its bars, or z.
    const plain = (title) => (title && title.text || '').replace(/<[^>]*>/g, ' ').trim();
    const quoted = (value) => /[",\n]/.test(value = String(value ?? '')) ? `"${value.replaceAll('"', '""')}"` : value;
    // The title of a trace's axis: its own (of `layout`, not plotly's complete one, whose default is a request to click) or,
    // where panels share an axis, that of the others.
    const axisTitle = (layout, letter, ref) => {
        const own = layout[ref.replace(letter, `${letter}axis`)] || {};
        const shared = Object.keys(layout).filter((key) => key.startsWith(`${letter}axis`)).map((key) => plain(layout[key].title));
        return plain(own.title) || shared.find((title) => title) || letter;
    };
    const panelTitle = (plot, trace) => {
        const { annotations = [] } = plot.layout;
        const { domain } = plot._fullLayout[trace.xaxis.replace('x', 'xaxis')], middle = (domain[0] + domain[1]) / 2;
        const found = annotations.find(({ x, xref, yanchor, showarrow }) => (
            xref === 'paper' && yanchor === 'bottom' && !showarrow && Math.abs(x - middle) < 0.01));
        return found ? plain(found) : '';
    };
    const values = (plot) => {
        const traces = plot._fullData.filter(({ x, y, type }) => x && y && type !== 'image');
        const axes = traces.map((trace) => ['x', 'y'].map((letter) => axisTitle(plot.layout, letter, trace[`${letter}axis`])));
        const [one, other] = [0, 1].map((k) => axes.every((titles) => titles[k] === axes[0][k]) && axes[0][k]);
        const head = ['trace', 'panel', 'point', one ? '' : 'horizontal axis', other ? '' : 'vertical axis', one || 'x', other || 'y'];
        head.push('horizontal minus', 'horizontal plus', 'minus', 'plus', 'z');
        const rows = traces.flatMap((trace, t) => {
            const { name, x, y, z, ids = [], error_x = {}, error_y = {} } = trace;
            const panel = panelTitle(plot, trace), first = (i) => [name, panel, ids[i], ...axes[t]];
            if (z) return [...y].flatMap((b, i) => [...x].map((a, j) => [...first(-1), a, b, '', '', '', '', z[i][j]]));
            const bar = ({ array, arrayminus }, i) => [(arrayminus || [])[i], (array || [])[i]];
            return [...x].map((a, i) => [...first(i), a, y[i], ...bar(error_x, i), ...bar(error_y, i), '']).filter((row) => !Number.isNaN(row[6]));
        });
        const kept = head.map((title, k) => [0, 5, 6].includes(k) || title && rows.some((row) => ![undefined, ''].includes(row[k])));
        return [head, ...rows].map((row) => row.filter((_, k) => kept[k]).map(quoted).join(',')).join('\n') + '\n';
    };
    const save = (name, text) => {
        const link = document.createElement('a');
        link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
        link.download = name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    };
    document.addEventListener('click', (event) => {
        const button = event.target.closest('.downloads button');
        if (!button) return;
        const { plot: name, format } = button.dataset, plot = document.querySelector(`#${name} .js-plotly-plot`);
        if (!plot || !plot._fullData) return;
        if (format === 'csv') return save(`latentcrf-${name}.csv`, values(plot));
        plot._context.toImageButtonOptions = { format, filename: `latentcrf-${name}`, scale: format === 'png' ? 2 : 1 };
        const ground = plot.layout.paper_bgcolor;
        plot.layout.paper_bgcolor = '#ffffff';
        plot.querySelector('.modebar-btn[data-title^="Download"]').click();
        plot.layout.paper_bgcolor = ground;
    });

    // Fitting. plotly cuts titles that are longer than their figure: they are broken into lines, and on a phone the type
    // is smaller and the margins are narrow. Each drawing by the server brings a new layout, which is fitted anew.
    const NARROW = 640, SMALL = 12;  // px
    const ruler = document.createElement('canvas').getContext('2d');
    const bare = (text) => text.replace(/<[^>]*>/g, '');
    const wrapped = (text, size, room) => {
        ruler.font = `${size}px "Open Sans", verdana, arial, sans-serif`;
        const lines = [];
        for (const line of text.split('<br>')) {
            let open = '';
            for (const word of line.split(' ')) {
                const longer = open ? `${open} ${word}` : word;
                if (!open || ruler.measureText(bare(longer)).width <= room) open = longer;
                else { lines.push(open); open = word; }
            }
            lines.push(open);
        }
        return lines.join('<br>');
    };
    const lines = (text) => text.split('<br>').length;
    const drawings = new WeakMap();  // layout -> what the server wanted of it (`was`), and the size it is fitted to
    const fit = (plot) => {
        const { layout, _fullLayout: full } = plot, width = plot.clientWidth;
        if (!full || !full._size || !width || !window.Plotly) return;
        if (!drawings.has(layout)) drawings.set(layout, { was: structuredClone(layout) });
        const drawing = drawings.get(layout), { was } = drawing;
        const fitted = `${width} ${window.innerHeight}`;
        if (drawing.fitted === fitted) return;
        drawing.fitted = fitted;
        const narrow = width < NARROW, changes = {};
        const typed = (size) => narrow ? Math.max(SMALL, Math.min(size, SMALL + 3)) : size;
        const change = (name, now, before) => { if (now !== before) changes[name] = now; };
        const base = was.font.size, size = narrow ? SMALL : base;
        change('font.size', size, layout.font.size);
        const margin = narrow ? { l: 8, r: 8, b: 40 } : { l: was.margin.l, r: was.margin.r, b: was.margin.b };
        for (const side of ['l', 'r', 'b']) change(`margin.${side}`, margin[side], layout.margin[side]);
        const titleSize = typed(was.title.font.size);
        const title = wrapped(was.title.text, titleSize, width - 2 * titleSize);
        let more = 1.3 * titleSize * (lines(title) - lines(was.title.text));
        const names = was.xaxis && was.xaxis.side === 'top' && was.xaxis.ticktext;  // of an image grid's columns
        if (names) {
            const room = (width - 100) / names.length, now = names.map((name) => narrow ? wrapped(name, size, room) : name);
            if (now.join() !== layout.xaxis.ticktext.join()) changes['xaxis.ticktext'] = now;
            more += 1.3 * size * (Math.max(...now.map(lines)) - Math.max(...names.map(lines)));
        }
        change('title.text', title, layout.title.text);
        change('title.font.size', titleSize, layout.title.font.size);
        const above = Math.round(was.margin.t + more);
        change('margin.t', above, layout.margin.t);
        // A figure at the top of the page is no higher than the screen, its axis in sight; images keep their size.
        const top = plot.getBoundingClientRect().top + window.scrollY, free = window.innerHeight - top - 8;
        const pictures = plot._fullData.some(({ type }) => type === 'image');
        let height = was.height;
        if (!narrow && top < window.innerHeight / 2 && !pictures) height = Math.min(height, Math.max(380, free));
        const inside = { x: width - margin.l - margin.r - 4 * size, y: full._size.h };
        for (const name of Object.keys(was).filter((each) => /^[xy]axis\d*$/.test(each))) {
            const wanted = was[name].title;
            if (!wanted || !wanted.text) continue;
            const [begin, end] = was[name].domain || [0, 1], own = wanted.font && wanted.font.size || 1.2 * base;
            const now = Math.min(typed(own), own);
            change(`${name}.title.text`, wrapped(wanted.text, now, inside[name[0]] * (end - begin)), layout[name].title.text);
            change(`${name}.title.font.size`, now, layout[name].title.font && layout[name].title.font.size);
        }
        const notes = was.annotations || [], rows = {};
        for (const note of notes) rows[note.y] = (rows[note.y] || 0) + 1;
        notes.forEach((note, k) => {  // the titles of subplots, side by side
            if (note.xref !== 'paper' || note.yref !== 'paper' || note.textangle) return;
            const now = typed(note.font && note.font.size || base);
            change(`annotations[${k}].text`, wrapped(note.text, now, inside.x / rows[note.y]), layout.annotations[k].text);
            change(`annotations[${k}].font.size`, now, (layout.annotations[k].font || {}).size);
        });
        // Pictures are as high as a phone's width lets them be (meta: height over width).
        if (narrow && was.meta && was.meta.aspect) {
            height = Math.min(height, Math.round((width - 100) * was.meta.aspect + above + 60));
        }
        // The element's size, not the layout's: with that plotly would no longer follow the width of the window.
        plot.style.height = `${height}px`;
        delete layout.height;
        delete layout.width;
        window.Plotly.relayout(plot, { ...changes, autosize: true });
    };
    setInterval(() => document.querySelectorAll('.js-plotly-plot').forEach(fit), 250);
}
