// A private link carries its token in the fragment, which no server sees; hand it over in a form's body.
"use strict";

const token = window.location.hash.slice(1);
if (token) {
  window.history.replaceState(null, "", window.location.pathname);
  document.getElementById("token").value = token;
  document.getElementById("open").requestSubmit();
}
