() => {
    // The images of a comparison: all show the same part with the same zoom; the viewer shows one beside the other, or
    // their difference. Places are in percent of an image's box, as boxes differ in size. Run once.
    const MAX_ZOOM = 16, ZOOM_STEP = 1.5, REACH = 24, PAN_STEP = 10;  // px from the divider; percent of the box
    const SOURCES = ['#full img', '#latentcrf img'], BOXES = '#full, #latentcrf, #slider';
    const find = (selector) => document.querySelector(selector);
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    const view = { zoom: 1, x: 0, y: 0 };
    let split = 50;

    const apply = () => {
        const room = 100 * (1 - view.zoom);  // an image covers its box; a smaller one is in its middle
        for (const axis of ['x', 'y']) view[axis] = room < 0 ? clamp(view[axis], room, 0) : room / 2;
        const { style, classList } = find('#stage');
        for (const [name, value] of Object.entries({ ...view, split })) style.setProperty(`--${name}`, value);
        classList.toggle('zoomed', view.zoom > 1);
    };
    const computeNativeZoom = () => {  // the zoom at which a pixel of an image is one of the screen
        const { naturalWidth, naturalHeight } = find('#slider img'), { clientWidth, clientHeight } = find('#slider');
        const shown = naturalWidth && Math.min(clientWidth / naturalWidth, clientHeight / naturalHeight);
        return shown > 0 ? 1 / (shown * window.devicePixelRatio) : 1;
    };
    const zoomTo = (zoom, x = 50, y = 50) => {  // the point (x, y) of the box stays where it is
        const native = computeNativeZoom(), now = clamp(zoom, Math.min(1, native), Math.max(MAX_ZOOM, native));
        const ratio = now / view.zoom;
        Object.assign(view, { zoom: now, x: x - ratio * (x - view.x), y: y - ratio * (y - view.y) });
        apply();
    };
    const move = (x, y) => {
        Object.assign(view, { x: view.x + x, y: view.y + y });
        apply();
    };
    const locate = ({ clientX, clientY }, box) => {
        const { left, top, width, height } = box.getBoundingClientRect();
        return [100 * (clientX - left) / width, 100 * (clientY - top) / height];
    };

    const drawDifference = (images) => {
        const canvas = find('#slider canvas'), factor = find('[data-role="factor"]').value;
        canvas.width = Math.max(...images.map((image) => image.naturalWidth));
        canvas.height = Math.max(...images.map((image) => image.naturalHeight));
        const context = canvas.getContext('2d', { willReadFrequently: true });
        const [first, second] = images.map((image) => {
            context.clearRect(0, 0, canvas.width, canvas.height);
            context.drawImage(image, 0, 0, canvas.width, canvas.height);
            return context.getImageData(0, 0, canvas.width, canvas.height);
        });
        for (let i = 0; i < first.data.length; i += 1) {
            if (i % 4 < 3) first.data[i] = factor * Math.abs(first.data[i] - second.data[i]);  // not the opacity
        }
        context.putImageData(first, 0, 0);
    };
    const copyImages = () => {
        const images = SOURCES.map(find);
        if (!find('#viewer') || !images.every((image) => image?.complete && image.naturalWidth)) return;
        document.querySelectorAll('#slider img').forEach((image, i) => {
            if (image.src !== images[i].src) image.src = images[i].src;
        });
        if (find('#viewer').dataset.view === 'difference') drawDifference(images);
    };
    document.addEventListener('load', ({ target }) => {
        if (target.closest?.('#full, #latentcrf')) copyImages();
    }, true);

    const fill = (on) => {
        const viewer = find('#viewer');
        viewer.classList.toggle('filled', on);  // page.css fills the window where the browser has no full screen
        if (on) viewer.requestFullscreen?.().catch(() => {});
        else if (document.fullscreenElement) document.exitFullscreen();
    };
    document.addEventListener('fullscreenchange', () => {
        if (!document.fullscreenElement && find('#viewer.filled')) fill(false);
    });
    document.addEventListener('keydown', (event) => {  // Esc leaves full screen; arrow keys move a zoomed image
        const { key, target } = event;
        if (key === 'Escape' && find('#viewer.filled')) fill(false);
        else if (target.closest?.('.view-tools button') && key.startsWith('Arrow') && view.zoom > 1) {
            const [x, y] = [['ArrowLeft', 'ArrowRight'], ['ArrowUp', 'ArrowDown']].map(
                ([back, forth]) => PAN_STEP * ((key === back) - (key === forth))
            );
            move(x, y);
        } else return;
        event.preventDefault();
    }, true);
    const actions = {
        in: () => zoomTo(ZOOM_STEP * view.zoom),
        out: () => zoomTo(view.zoom > 1 ? Math.max(1, view.zoom / ZOOM_STEP) : 1),
        one: () => zoomTo(computeNativeZoom()),
        pixels: (button) => button.setAttribute('aria-pressed', find('#stage').classList.toggle('pixels')),
        fill: () => fill(!find('#viewer').classList.contains('filled')),
    };
    document.addEventListener('click', ({ target }) => {
        const button = target.closest('.view-tools [data-act]');
        if (button) actions[button.dataset.act](button);
    });
    document.addEventListener('input', ({ target }) => {
        if (!target.closest('#viewer')) return;
        if (target.type === 'range') split = Number(target.value);
        if (target.dataset.role === 'view') find('#viewer').dataset.view = target.value;
        apply();
        copyImages();
    });

    // Dragging moves the divider, or what is zoomed; two fingers, or Ctrl and the wheel, zoom.
    const pointers = new Map();
    let isDivider = false;
    document.addEventListener('pointerdown', (event) => {
        const box = event.target.closest(BOXES);
        if (!box || event.button || event.target.closest('.icon-button-wrapper')) return;
        if (event.isPrimary) pointers.clear();  // one whose end was not heard, outside of the window
        pointers.set(event.pointerId, { box, event });
        const isNear = Math.abs(locate(event, box)[0] - split) / 100 * box.clientWidth < REACH;
        isDivider = box.id === 'slider' && find('#viewer').dataset.view === 'slide' && (isNear || view.zoom <= 1);
    });
    document.addEventListener('pointermove', (event) => {
        const own = pointers.get(event.pointerId);
        if (!own || !event.buttons) return;
        const [x, y] = locate(event, own.box), [lastX, lastY] = locate(own.event, own.box);
        if (pointers.size > 1) {
            const other = [...pointers].find(([id]) => id !== event.pointerId)[1].event;
            const measure = ({ clientX, clientY }) => Math.hypot(clientX - other.clientX, clientY - other.clientY);
            zoomTo(view.zoom * measure(event) / Math.max(measure(own.event), 1), x, y);
        } else if (isDivider) {
            split = clamp(x, 0, 100);
            find('#viewer input').value = split;
            apply();
        } else if (view.zoom > 1) move(x - lastX, y - lastY);
        own.event = event;
    });
    for (const name of ['pointerup', 'pointercancel']) {
        document.addEventListener(name, ({ pointerId }) => pointers.delete(pointerId));
    }
    document.addEventListener('dragstart', (event) => { if (event.target.closest?.(BOXES)) event.preventDefault(); });
    document.addEventListener('wheel', (event) => {
        const box = event.ctrlKey && event.target.closest(BOXES);
        if (!box) return;
        event.preventDefault();
        zoomTo(view.zoom * Math.exp(-event.deltaY / 200), ...locate(event, box));
    }, { passive: false });
}
