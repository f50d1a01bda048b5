() => {
    // What the form of a comparison does in the browser: no answer of the server comes between a value that is typed
    // and what follows it. `app.components.form` calls these functions. Run once.
    const WAIT = 400;  // ms; browsers refuse an address that changes at each key
    const readNumber = (id) => parseFloat(document.querySelector(`#${id} input`).value);

    // The bypass moves with the number of steps, so that its shares stay: those of the moment when Steps was entered.
    let shares = null;
    document.addEventListener('focusin', ({ target }) => {
        if (!target.closest('#steps')) return;
        const [steps, start, end] = ['steps', 'bypass-start', 'bypass-end'].map(readNumber);
        shares = start >= 1 && start < end && end <= steps ? [start / steps, end / steps] : null;
    });
    const moveBypass = (steps, start, end) => {
        if (!shares || !Number.isInteger(steps) || steps < 2 || steps > 200) return [start, end];  // "1" before "100"
        const moved = Math.min(Math.max(1, Math.round(shares[0] * steps)), steps - 1);
        // The sampler keeps a last step if it had one, unless the bypass would be empty.
        const last = Math.max(moved + 1, Math.min(Math.round(shares[1] * steps), steps - 1));
        return [moved, shares[1] >= 1 ? steps : last];
    };

    // A link's settings come over the network: they do not replace what was typed since the page was opened.
    const typed = new Map();  // an element's id -> what was typed; gradio may draw the field itself anew
    document.addEventListener('input', ({ target }) => {
        typed.set(target.closest('.block')?.id, target.type === 'checkbox' ? target.checked : target.value);
    }, true);
    const keepTyped = (names, values) => values.map((value, i) => {  // undefined: gradio leaves the field as it is
        const own = typed.get(names[i].replaceAll('_', '-'));
        const kept = typeof value === 'number' ? parseFloat(own) : own;
        return own === undefined || kept === value ? undefined : kept;
    });
    const drawLink = (isWanted) => {
        if (isWanted && !typed.size) document.querySelector('#compare-start')?.click();
    };

    // The address follows the page: opened again, it brings the same. Null takes a name out of it.
    let waiting = null;
    const changes = {};
    const writeNow = () => {
        clearTimeout(waiting);
        const url = new URL(window.location.href);
        for (const [name, value] of Object.entries(changes)) {
            if (value === null) url.searchParams.delete(name);
            else url.searchParams.set(name, String(value));
            delete changes[name];
        }
        window.history.replaceState(window.history.state, '', url);
    };
    const writeAddress = (values) => {
        Object.assign(changes, values);
        clearTimeout(waiting);
        waiting = setTimeout(writeNow, WAIT);
    };
    const writeSettings = (names, values) => writeAddress(
        Object.fromEntries(names.map((name, i) => [name, values[i] ?? '']))
    );
    const copyAddress = () => {
        writeNow();
        navigator.clipboard?.writeText(window.location.href).catch(() => {});
        return window.location.href;
    };

    // A PNG that is dropped anywhere goes where a chosen one goes: into the settings, which are opened.
    const hasFiles = ({ dataTransfer }) => dataTransfer && [...dataTransfer.types].includes('Files');
    const find = async (selector) => {
        for (let i = 0; i < 50 && !document.querySelector(selector); i += 1) {
            await new Promise((done) => { setTimeout(done, 100); });
        }
        return document.querySelector(selector);
    };
    document.addEventListener('dragover', (event) => { if (hasFiles(event)) event.preventDefault(); });
    document.addEventListener('drop', async (event) => {
        const files = new DataTransfer(), file = hasFiles(event) && event.dataTransfer.files[0];
        if (!file) return;
        event.preventDefault();
        files.items.add(file);
        document.querySelector('#compare-tab-button').click();
        const settings = await find('#settings > button');
        if (!document.querySelector('#load-png')) settings.click();
        const field = (await find('#load-png')).parentElement.querySelector('input[type=file]');
        field.files = files.files;
        field.dispatchEvent(new Event('change', { bubbles: true }));
    });

    window.latentcrf = { moveBypass, keepTyped, drawLink, writeAddress, writeSettings, copyAddress };
}
