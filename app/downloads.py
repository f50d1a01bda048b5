"""A figure: a listener on its marks, and downloads made in the browser of what is drawn: PNG, SVG, the values as CSV."""

import gradio as gr

# One listener for all figures. Images are made by plotly's own button (hidden until one points at the figure), on white
# ground, as the page's is transparent. A CSV has a row a point: the trace's name, x, y, the ends of its bar, or z.
DOWNLOADS_JS = r"""() => {
    const plain = (title, other) => (title && title.text || other).replace(/<[^>]*>/g, ' ').trim();
    const quoted = (value) => /[",\n]/.test(value = String(value ?? '')) ? `"${value.replaceAll('"', '""')}"` : value;
    const values = (plot) => {
        const layout = plot._fullLayout, rows = [];
        const head = ['trace', plain(layout.xaxis.title, 'x'), plain(layout.yaxis.title, 'y'), 'minus', 'plus', 'z'];
        for (const { name, x, y, z, error_y } of plot._fullData) {
            if (z) y.forEach((b, i) => x.forEach((a, j) => rows.push([name, a, b, '', '', z[i][j]])));
            else if (x && y) x.forEach((a, i) => {
                const plus = error_y && error_y.array, minus = error_y && error_y.arrayminus;
                rows.push([name, a, y[i], minus ? minus[i] : '', plus ? plus[i] : '', '']);
            });
        }
        const kept = head.map((_, k) => k < 3 || rows.some((row) => row[k] !== ''));
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
}"""


def listening(name: str, event: str, handler: str) -> str:
    """JavaScript that puts `handler`, an arrow function of plotly's event, on the figure `name`; to be run at each of its
    changes, as gradio may draw it into a new element."""
    return f"""() => {{
    const hook = () => {{
        const plot = document.querySelector('#{name} .js-plotly-plot');
        if (!plot || !plot.on) return setTimeout(hook, 300);
        if (plot.hooked) return;
        plot.hooked = true;
        plot.on('{event}', {handler});
    }};
    setTimeout(hook, 300);
}}"""


def build_figure(name: str, *, table: bool = True) -> gr.Plot:
    """A place for a figure, its element's id `name`, and below it the links that download it.

    Args:
        table: whether the figure shows values; pictures alone have no CSV.
    """
    drawn = gr.Plot(show_label=False, container=False, elem_id=name)
    formats = ("png", "svg", "csv")[: 3 if table else 2]
    links = "".join(
        f'<button type="button" data-plot="{name}" data-format="{kind}">{kind.upper()}</button>' for kind in formats
    )
    gr.HTML(f'<p class="downloads controls">Download {links}</p>', padding=False)
    return drawn
