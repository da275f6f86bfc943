import { createRoot } from "react-dom/client";
import { App } from "./App";
import "./styles.css";

const root = document.getElementById("root");
if (root === null) throw new Error("the page has no root");
createRoot(root).render(<App users={new URLSearchParams(location.search).getAll("user").filter((u) => u !== "")} />);
