() => {
    // The page as a whole: presentation, keys, and what the address says about them. Run once.
    const present = (on) => {
        document.body.classList.toggle('presentation', on);
        window.latentcrf.writeAddress({ presentation: on ? 1 : null });
    };
    const chooseTab = (tab) => window.latentcrf.writeAddress({ tab: tab === 'compare' ? null : tab });

    // The server selects the address' tab; where its answer comes before gradio has built the tabs, it is lost.
    const wanted = new URLSearchParams(window.location.search).get('tab');
    let isTouched = false;
    for (const name of ['pointerdown', 'keydown']) {
        document.addEventListener(name, () => { isTouched = true; }, { capture: true, once: true });
    }
    const keepTab = (tries) => {
        const tab = document.querySelector(`#${CSS.escape(wanted)}-tab-button`);
        if (isTouched || !tries) return;
        if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
        setTimeout(() => keepTab(tries - 1), 300);
    };
    if (wanted) keepTab(20);

    // Esc cancels the run of the tab in sight; without one it leaves the presentation.
    document.addEventListener('keydown', (event) => {
        if (event.key !== 'Escape' || event.defaultPrevented || document.fullscreenElement) return;
        const cancel = [...document.querySelectorAll('[id$="-cancel"]:not(:disabled)')].find(
            (button) => button.closest('.tabitem').getClientRects().length
        );
        if (cancel) cancel.click();
        else if (document.body.classList.contains('presentation')) document.querySelector('#presentation input').click();
    });

    Object.assign(window.latentcrf, { present, chooseTab });
}
