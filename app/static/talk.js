() => {
    // The method tab's talk: its sections one at a time, and its players (app/components/talk.py). Run once, before the
    // tab is there: gradio builds it when it is opened.
    const findTalk = () => document.querySelector('#method-talk');
    const read = (element, name) => JSON.parse(element.dataset[name]);
    const show = (player) => {
        let index = 0;
        for (const slider of player.querySelectorAll('input[type=range]')) {
            index = index * (Number(slider.max) + 1) + Number(slider.value);
            const output = slider.nextElementSibling;
            output.textContent = read(output, 'own')[slider.value];
            slider.setAttribute('aria-valuetext', output.textContent);
        }
        if (player.dataset.map) index = read(player, 'map')[index];
        for (const sprite of player.querySelectorAll('[data-frames]')) {
            const [columns, rows] = sprite.dataset.grid.split(' ').map(Number), frame = read(sprite, 'frames')[index];
            const place = (number, size) => `${100 * number / Math.max(size - 1, 1)}%`;
            sprite.style.backgroundPosition = `${place(frame % columns, columns)} ${
                place(Math.floor(frame / columns), rows)}`;
        }
        for (const text of player.querySelectorAll('[data-texts]')) text.textContent = read(text, 'texts')[index];
        for (const bar of player.querySelectorAll('[data-widths]')) bar.style.width = `${read(bar, 'widths')[index]}%`;
        for (const cell of player.querySelectorAll('[data-from]')) {
            const from = Number(cell.dataset.from);
            cell.classList.toggle('done', from <= index);
            cell.classList.toggle('now', from === index);
        }
    };
    // A slider of a group moves the others of it, in all sections.
    const move = (slider, value) => {
        const { group } = slider.dataset;
        const all = group ? findTalk().querySelectorAll(`input[data-group="${group}"]`) : [slider];
        for (const each of all) { each.value = value; show(each.closest('.player')); }
    };
    document.addEventListener('input', ({ target }) => {
        if (target.matches('#method-talk .player input[type=range]')) move(target, target.value);
    });

    // Sections.
    const go = (root, by, number = Number(root.dataset.section || 0) + by) => {
        const sections = [...root.querySelectorAll('.talk-section')];
        const current = Math.min(Math.max(number, 0), sections.length - 1);
        root.dataset.section = current;
        sections.forEach((section, k) => section.toggleAttribute('data-current', k === current));
        root.querySelector('.counter').textContent = `${current + 1} / ${sections.length}`;
        root.querySelectorAll('.dots button').forEach((dot, k) => {
            if (k === current) dot.setAttribute('aria-current', 'step'); else dot.removeAttribute('aria-current');
        });
        root.querySelector('[data-move="-1"]').disabled = current === 0;
        root.querySelector('[data-move="1"]').disabled = current === sections.length - 1;
    };
    document.addEventListener('click', ({ target }) => {
        const root = target.closest('#method-talk');
        if (!root) return;
        const button = target.closest('button'), cell = target.closest('[data-from]');
        if (button && button.dataset.move) go(root, Number(button.dataset.move));
        else if (button && button.dataset.section) go(root, 0, Number(button.dataset.section));
        else if (button && 'reset' in button.dataset) {
            button.closest('.player').querySelectorAll('input[type=range]').forEach((slider) => {
                move(slider, slider.max / 2);
            });
        } else if (cell && cell.matches('i')) {
            move(cell.closest('.player').querySelector('input[type=range]'), cell.dataset.from);
        }
    });
    // Keys: not where they move something else. Presenters' remote controls send page keys.
    const MOVES = { ArrowRight: 1, ArrowLeft: -1, ' ': 1, PageDown: 1, PageUp: -1 };
    document.addEventListener('keydown', (event) => {
        const step = MOVES[event.key], { target } = event, root = findTalk();
        if (!step || event.altKey || event.ctrlKey || event.metaKey || !root || !root.getClientRects().length) return;
        if (target.closest('input:not([type="checkbox"]), textarea, select, [contenteditable="true"]')) return;
        if (event.key === ' ' && target.closest('button:not([role="tab"]), summary, a, input')) return;
        if (event.key.startsWith('Page') && !document.querySelector('.presentation')) return;
        event.preventDefault();
        go(root, event.shiftKey && event.key === ' ' ? -1 : step);
    });
}
