import type { ReactNode } from "react";

function Icon({ children }: { readonly children: ReactNode }) {
  return (
    <svg className="icon" viewBox="0 0 20 20" width="20" height="20" fill="none" stroke="currentColor" strokeWidth="1.7" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      {children}
    </svg>
  );
}

export const IconWave = () => (
  <Icon>
    <path d="M2 7.5c2.7-2.7 5.3 2.7 8 0s5.3 2.7 8 0M2 12.5c2.7-2.7 5.3 2.7 8 0s5.3 2.7 8 0" />
  </Icon>
);
export const IconPlus = () => <Icon><path d="M10 4v12M4 10h12" /></Icon>;
export const IconTrash = () => <Icon><path d="M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6" /></Icon>;
export const IconCheck = () => <Icon><path d="M5 10.5l3.5 3.5L15 6.5" /></Icon>;
export const IconPeople = () => (
  <Icon>
    <circle cx="7.5" cy="7" r="2.7" />
    <path d="M2.5 16c.4-3 2.3-4.5 5-4.5s4.600 1.500 5 4.500M13 4.600a2.500 2.500 0 010 4.800M14.500 11.800c1.700.500 2.700 1.900 3 4.200" />
  </Icon>
);
export const IconUp = () => <Icon><path d="M10 16V4M5 9l5-5 5 5" /></Icon>;
export const IconBolt = () => <Icon><path d="M11 2.500L4.500 11.500H10l-1 6 6.500-9H10z" /></Icon>;
export const IconGauge = () => <Icon><path d="M3.500 14.500a7 7 0 1113 0M10 12l3-4" /></Icon>;
