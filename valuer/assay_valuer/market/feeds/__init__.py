"""Where price rows come from: plug-ins behind one protocol (feed.Feed), each read within bounds."""
